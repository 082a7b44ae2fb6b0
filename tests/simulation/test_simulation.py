"""Under mixed faults no upload is lost or stored twice, and everything drains soon after the last fault.

pytest -m simulation tests/simulation --seeds 10000
pytest -m simulation tests/simulation --seed 52 -s
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.simulate import Run, simulate

EVERYDAY = 24
_SHOWN = 60

FOUND = {
    0: "because of a rounding error, a timer fired repeatedly before its tick",
    24: "one reactor claimed a row twice",
    52: "a row that a reactor claimed twice ended the reactor",
    299: "with a backlog, a reactor sent claims without a pause to a database that was down",
}
"""Seeds that once found a bug. Each bug also has its own test, because changing the simulation changes the runs."""


def assert_no_violations(run: Run) -> None:
    """Fail with the violations, the last lines of the trace and the command that replays the seed."""
    if run.violations:
        violations = "\n".join(run.violations)
        pytest.fail(
            f"seed {run.seed}:\n{violations}\n\nthe last events:\n" + "\n".join(run.trace[-_SHOWN:]) + "\n\nreplay it: "
            f"pytest -m simulation tests/simulation --seed {run.seed} -s",
            pytrace=False,
        )


@pytest.mark.parametrize("seed", [*range(100, 100 + EVERYDAY), *FOUND])
def test_mixed_faults_lose_nothing_and_everything_drains(seed: int) -> None:
    assert_no_violations(simulate(seed))


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(7).trace == simulate(7).trace
    assert simulate(7).trace != simulate(8).trace


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    """A run depends neither on memory addresses nor on hashes of strings."""
    command = "from simulation.simulate import simulate; print(simulate(7).digest)"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "3"}
    ran = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == simulate(7).digest


@pytest.mark.simulation
@pytest.mark.timeout(0)
def test_many_seeds_lose_nothing_and_drain(request: pytest.FixtureRequest) -> None:
    replayed: int | None = request.config.getoption("--seed", default=None)
    if replayed is not None:
        run = simulate(replayed)
        print("\n".join(run.trace))  # noqa: T201  # --seed asks for the trace
        assert_no_violations(run)
        return
    first: int = request.config.getoption("--first-seed", default=1_000)
    for seed in range(first, first + request.config.getoption("--seeds", default=100)):
        assert_no_violations(simulate(seed))
