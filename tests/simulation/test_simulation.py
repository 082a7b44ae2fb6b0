"""Whatever goes wrong, nothing is lost, nothing is done twice, and all is done soon after it has ended.

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
    0: "an alarm rang a rounding error before its tick, again and again",
    24: "one reactor claimed a row twice",
    52: "a row that was claimed twice ended its reactor",
    299: "a backlog hammered a database that was away",
}
"""Seeds that once showed a fault of the product. Each fault has a test of its own too, for whoever changes the world
changes what becomes of a seed."""


def assert_well(run: Run) -> None:
    """Fail with what was wrong, the last of what happened, and the command that shows all of it."""
    if run.violations:
        wrong = "\n".join(run.violations)
        pytest.fail(
            f"seed {run.seed}:\n{wrong}\n\nthe last events:\n" + "\n".join(run.trace[-_SHOWN:]) + "\n\nreplay it: "
            f"pytest -m simulation tests/simulation --seed {run.seed} -s",
            pytrace=False,
        )


@pytest.mark.parametrize("seed", [*range(100, 100 + EVERYDAY), *FOUND])
def test_a_world_of_faults_loses_nothing_and_drains(seed: int) -> None:
    assert_well(simulate(seed))


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(7).trace == simulate(7).trace
    assert simulate(7).trace != simulate(8).trace


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    """Nothing depends on addresses or on the hashes of strings."""
    command = "from simulation.simulate import simulate; print(simulate(7).digest)"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "3"}
    ran = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == simulate(7).digest


@pytest.mark.simulation
@pytest.mark.timeout(0)
def test_many_seeds(request: pytest.FixtureRequest) -> None:
    replayed: int | None = request.config.getoption("--seed", default=None)
    if replayed is not None:
        run = simulate(replayed)
        print("\n".join(run.trace))  # noqa: T201  # what was asked for
        assert_well(run)
        return
    first: int = request.config.getoption("--first-seed", default=1_000)
    for seed in range(first, first + request.config.getoption("--seeds", default=100)):
        assert_well(simulate(seed))
