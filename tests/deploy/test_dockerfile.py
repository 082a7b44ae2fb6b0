"""The Dockerfile is sound, pinned and hardened, and its build steps work. No test needs a container engine."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.deploy_files import DEPLOY, ROOT
from support.process import environment

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
BUILD_STAGE = DOCKERFILE[: DOCKERFILE.rindex("\nFROM ")]


def steps(kind: str, text: str = DOCKERFILE) -> list[str]:
    """Return the arguments of each instruction of a kind, including continuation lines."""
    return re.findall(rf"^{kind} ((?:.*\\\n)*.*)$", text, re.MULTILINE)


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_has_an_unprivileged_user_a_health_check_and_no_shell() -> None:
    [user] = steps("USER")
    assert re.fullmatch(
        r"[1-9]\d{3,}:[1-9]\d{3,}", user
    )  # numeric ids, so that Kubernetes can check that the user isn't root
    [check] = steps("HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    compile(command[2], "HEALTHCHECK", "exec")
    assert "/healthz" in command[2]  # not /readyz: an outage of the database must not restart the container
    assert steps("ENTRYPOINT") == ['["reactor"]']  # a shell would not forward SIGTERM


def copied() -> list[str]:
    return [name for text in steps("COPY") if "--from" not in text for name in text.split()[:-1]]


def test_every_copied_path_exists_and_is_not_ignored() -> None:
    passed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied()) == passed
    assert all((ROOT / name).exists() for name in passed)


def test_every_installed_package_is_pinned() -> None:
    """The pins include the build backend, and all direct and indirect dependencies that are installed here."""
    needed = {"hatchling"}
    unread = {("pgreactor", "server")}
    while unread:
        name, extra = unread.pop()
        found = [
            requirement
            for requirement in map(Requirement, requires(name) or [])
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        ]
        unread |= {(plain(each.name), "") for each in found if plain(each.name) not in needed}
        needed |= {plain(each.name) for each in found}
    assert needed <= pinned()


def pinned() -> set[str]:
    return {plain(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_build_steps_make_a_reactor_that_runs(tmp_path: Path) -> None:
    """Execute the RUN lines of the first stage, with their folders replaced by temporary folders."""
    source = tmp_path / "src"
    source.mkdir()
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    constraints = str(source / "constraints.txt")
    env = environment() | {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
    for command in steps("RUN", BUILD_STAGE):
        moved = command.replace("/opt/reactor", f"{tmp_path}/opt").replace("/wheel", f"{tmp_path}/wheel")
        subprocess.run(["/bin/sh", "-ec", moved], cwd=source, env=env, check=True)

    reactor = tmp_path / "opt/bin/reactor"
    version = subprocess.check_output([reactor, "--version"], cwd=tmp_path, env=env, text=True)
    assert version == "reactor, version 0.3.0\n"
    printed = subprocess.check_output([reactor, "migrate", "--print"], cwd=tmp_path, env=env, text=True)
    for path in (ROOT / "schema").glob("*/*.sql"):
        assert path.read_text() in printed
    installed = {plain(path.name.split("-")[0]) for path in (tmp_path / "opt").rglob("*.dist-info")}
    assert installed - {"pgreactor"} <= pinned()
    lost = subprocess.run([reactor, "status"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (lost.returncode, "REACTOR_DATABASE_URL" in lost.stderr) == (2, True)
