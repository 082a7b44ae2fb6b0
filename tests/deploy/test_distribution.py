"""The distribution `pgreactor`: its base is the client, small, and works with old and new dependencies and Pythons.

All tests build or install packages, so they are marked slow; .ci/run runs them. Interpreters other than this one are
taken from PATH (python3.11, python3.12, …) and from the variable REACTOR_TEST_PYTHONS (paths with `:` between).
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.process import environment

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MOST_BYTES = 25_000_000
MOST_DISTRIBUTIONS = 12
OTHERS = ["aiobotocore", "fastapi==0.110.3", "click==8.1.8", "opentelemetry-api==1.27.0", "opentelemetry-sdk==1.27.0"]
EXERCISE = ROOT / "tests/support/client_exercise.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def interpreters() -> list[str]:
    """Return one interpreter for each version of Python that is found here and that the project supports."""
    named = [name for name in os.environ.get("REACTOR_TEST_PYTHONS", "").split(os.pathsep) if name]
    found = [path for minor in range(11, 20) if (path := shutil.which(f"python3.{minor}")) is not None]
    by_version: dict[str, str] = {}
    for path in [sys.executable, *named, *found]:
        script = "import sys; print(*sys.version_info[:2], sep='.')"
        done = subprocess.run([path, "-c", script], capture_output=True, text=True, check=False)
        version = done.stdout.strip()
        if done.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 11):
            by_version.setdefault(version, path)
    return [by_version[version] for version in sorted(by_version)]


def unpinned() -> dict[str, str]:
    """Return the environment without the repository on its path, and without constraints."""
    return {name: text for name, text in environment().items() if name not in {"PYTHONPATH", "PIP_CONSTRAINT"}}


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, env=unpinned(), cwd=command[0].parent if isinstance(command[0], Path) else None,
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def install(python: str, folder: Path, *requirements: str | Path) -> Path:
    """Make a virtual environment with these packages; return its interpreter."""
    run(python, "-m", "venv", str(folder))
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", *map(str, requirements))
    return folder / "bin/python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    [built] = folder.glob("pgreactor-*.whl")
    return built


def test_the_base_is_small_and_its_command_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    python = install(sys.executable, tmp_path / "venv", wheel)
    [packages] = (tmp_path / "venv/lib").glob("python3.*/site-packages")
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools")
    own = {path for path in packages.iterdir() if not re.match(r"(pip|_virtualenv)\b", path.name)}
    distributions = sorted(path.name for path in own if path.suffix == ".dist-info")
    size = sum(file.stat().st_size for path in own for file in [path, *path.rglob("*")] if file.is_file())
    assert len(distributions) <= MOST_DISTRIBUTIONS, distributions
    assert size <= MOST_BYTES, (size, distributions)

    done = run(python.with_name("reactor"), "status", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("pip install 'pgreactor[server]'\n")
    assert len(done.stderr.splitlines()) == 1
    done = run(python, "-c", "import reactor; reactor.Reactor", check=False)
    assert done.stderr.splitlines()[-1].endswith("pip install 'pgreactor[server]'")
    run(python, "-c", "import reactor; reactor.load({}); print(reactor.ReactorClient, reactor.SyncReactorClient)")


def test_the_base_can_be_installed_beside_common_packages(wheel: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", str(wheel), *OTHERS)


def lowest() -> list[str]:
    """Return the base's requirements, pinned to their lower bounds."""
    return [requirement.replace(">=", "==") for requirement in PROJECT["dependencies"]]


@pytest.mark.parametrize("python", interpreters())
@pytest.mark.parametrize("dependencies", ["lowest", "newest"])
def test_the_client_works_with_each_interpreter(
    wheel: Path, tmp_path: Path, migrated_url: str, python: str, dependencies: str
) -> None:
    installed = install(python, tmp_path / "venv", wheel, *(lowest() if dependencies == "lowest" else []))
    assert run(installed, str(EXERCISE), migrated_url).stdout == "exercised\n"


def test_the_client_imports_in_at_most_one_and_a_half_times_the_time_of_psycopg(wheel: Path, tmp_path: Path) -> None:
    """Compares the shortest of several runs, in CPU time, without the interpreter's own start."""
    python = install(sys.executable, tmp_path / "venv", wheel)
    programs = {
        "nothing": "pass",
        "psycopg": "import psycopg, psycopg_pool",
        "ReactorClient": "from reactor import ReactorClient",
        "SyncReactorClient": "from reactor import SyncReactorClient",
    }
    measure = "; import resource; u = resource.getrusage(resource.RUSAGE_SELF); print(u.ru_utime + u.ru_stime)"
    best = {
        name: min(float(run(python, "-c", program + measure).stdout) for _ in range(15))
        for name, program in programs.items()
    }
    base_s = best["psycopg"] - best["nothing"]
    ratios = {name: (best[name] - best["nothing"]) / base_s for name in ("ReactorClient", "SyncReactorClient")}
    assert all(ratio <= 1.5 for ratio in ratios.values()), ratios
