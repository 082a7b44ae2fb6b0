"""Type checkers know the public API: example code passes mypy --strict and pyright, and a typo doesn't."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import reactor

ROOT = Path(__file__).parents[2]

EXAMPLE = """
from uuid import UUID

import reactor
from reactor import Interpretation, Reservation, SyncInterpretation, Usage


async def store(client: reactor.ReactorClient, user: UUID) -> str | None:
    try:
        source: Reservation = await client.reserve_upload(user, "0" * 64, 5, file_name="a.txt")
    except reactor.StorageQuotaExceeded as refusal:
        print(refusal.code.lower(), refusal.retryable, refusal.details["limit_bytes"], refusal.http_status + 1)
        return refusal.next_step
    except (reactor.DatabaseUnavailable, reactor.DatabaseForbidden) as error:
        return str(error)
    if source.storage_status == "pending":
        queued = await client.fail_upload(source.source_id, "b", "o", "t", metadata={"n": 1})
        return queued.code
    return source.storage_url


async def interpret(client: reactor.ReactorClient, source: UUID) -> int:
    async with client.interpretation(source, {"model": "m"}, timeout_s=60) as run:
        await step(run)
        return 1


async def step(run: Interpretation) -> None:
    if run.lost is not None:
        await run.fail("STOPPED", "no more")
    run.check()


def interpret_blocking(client: reactor.SyncReactorClient, source: UUID) -> int:
    with client.interpretation(source) as run:
        blocking_step(run)
        return 1


def blocking_step(run: SyncInterpretation) -> None:
    run.fail("STOPPED")


def usage(user: str) -> tuple[int, int | None]:
    with reactor.SyncReactorClient("", connections=10, wait_s=5) as client:
        used: Usage = client.set_plan(user, "pro")
        return client.usage(user_id=user).used_bytes, used.remaining_bytes


def embed(environ: dict[str, str]) -> reactor.Reactor:
    settings: reactor.Settings = reactor.load(environ)
    return reactor.Reactor(settings)
"""

TYPOS = {
    "an error": "import reactor\ntry:\n    pass\nexcept reactor.StorageQuotaExceded:\n    pass\n",
    "a name": "from reactor import ReactorCleint\n",
    "a method": "import reactor\nreactor.SyncReactorClient('').reserve_uplaod\n",
    "an argument": "import reactor\nreactor.SyncReactorClient('').usage(user='a')\n",
    "an answer": "import reactor\nprint(reactor.SyncReactorClient('').usage('a').used_byte)\n",
    "a fixed word": (
        "import reactor\ndef f(source: reactor.Reservation) -> bool:\n    return source.storage_status == 'pendign'\n"
    ),
    "a setting": "import reactor\nreactor.ReactorClient('', wait=5)\n",
}


def mypy(folder: Path) -> str:
    """Return what mypy says about the files in the folder; '' if it finds nothing."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [*command, *sorted(str(path) for path in folder.glob("*.py"))],
        cwd=folder, env=os.environ | {"MYPYPATH": str(ROOT)}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def pyright(folder: Path) -> str:
    """Return what pyright says about the files in the folder; '' if it finds nothing."""
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"],
        cwd=folder, env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    found = json.loads(done.stdout)["generalDiagnostics"]
    return "\n".join(f"{Path(each['file']).name}: {each['message']}" for each in found)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_example_code_passes_and_each_typo_is_an_error(checker: object, tmp_path: Path) -> None:
    assert callable(checker)
    if checker is pyright and shutil.which("node") is None:
        pytest.skip("pyright needs node")
    (tmp_path / "example.py").write_text(EXAMPLE)
    for name, text in TYPOS.items():
        (tmp_path / f"{name.replace(' ', '_')}.py").write_text(text)
    said = checker(tmp_path)
    assert "example.py" not in said
    assert [name for name in TYPOS if f"{name.replace(' ', '_')}.py" not in said] == []


def test_every_exported_name_exists_and_is_listed() -> None:
    assert dir(reactor) == sorted(reactor.__all__)
    for name in reactor.__all__:
        assert getattr(reactor, name) is not None


def test_every_exported_class_and_method_has_a_docstring() -> None:
    undocumented = []
    for name in reactor.__all__:
        exported = getattr(reactor, name)
        if isinstance(exported, type):
            members = {f"{name}.{key}": value for key, value in vars(exported).items() if not key.startswith("_")}
            public = {name: exported} | {key: value for key, value in members.items() if callable(value)}
            undocumented += [key for key, value in public.items() if not (value.__doc__ or "").strip()]
    assert undocumented == []
