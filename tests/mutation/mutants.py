"""Remove one guard of the product at a time and check that a test fails.

    python tests/mutation/mutants.py --list
    python tests/mutation/mutants.py ["claims without a lock" …]

tests/mutation/*.toml lists the mutations of SQL, and of Python that needs a database or a store; `mutmut run` mutates
reactor/core and reactor/configuration.py. Each mutation is a table, named after what the mutant does wrong. The table
has the `file`, the `old` text (which must occur once), the `new` text, and the `tests`. At least one of the tests must
fail with the mutant, and all must pass without the mutant. Each mutant is applied to a copy of the tree. A mutant is
broken and proves nothing if the schema doesn't migrate or the package doesn't import. Exits 1 if a mutant survives or
is broken.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("reactor", "schema", "tests", "deploy", "pyproject.toml", "README.md")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[| - |$)", re.MULTILINE)
_STARTS = (
    "import reactor.app, reactor.cli, reactor.client; from reactor.postgres.migrate import migrate; migrate({url!r})"
)
_TIMEOUT_S = 180.0
"""A mutant counts as caught if its tests take longer than this."""


@frozen(kw_only=True)
class Mutation:
    """The removal of one guard."""

    name: str
    """What the mutant does wrong."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Test files. At least one test in them must fail."""

    def matches(self, root: Path) -> int:
        """Return how often the file contains the old text. If the number isn't 1, the mutation is out of date."""
        return (root / self.file).read_text().count(self.old)

    def apply(self, root: Path) -> None:
        path = root / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


@frozen(kw_only=True)
class Result:
    """The result of one mutant."""

    outcome: str
    """'caught', 'survived' or 'broken'."""

    reason: str
    """The test that failed, the tests that passed, or the error."""

    seconds: float


def mutations() -> list[Mutation]:
    """Return all mutations of tests/mutation/*.toml."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text()).items():
            found.append(Mutation(name=name, tests=tuple(table.pop("tests")), **table))
    return found


@contextmanager
def _copy() -> Iterator[Path]:
    """Copy the tree to a folder that the account of the embedded server can enter."""
    with tempfile.TemporaryDirectory(prefix="reactor-mutant-", dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o711)
        for part in _COPIED:
            source, target = ROOT / part, root / part
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            else:
                shutil.copy(source, target)
        yield root


def _environment(root: Path, url: str) -> dict[str, str]:
    paths = os.pathsep.join([str(root), str(root / "tests")])
    return os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "REACTOR_TEST_DATABASE_URL": url}


def _run(root: Path, url: str, *arguments: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=_environment(root, url), text=True, capture_output=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip


def _test(
    root: Path, url: str, tests: Sequence[str], timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    return _run(root, url, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, timeout_s=timeout_s)


def _try(mutation: Mutation, url: str, server: "Server") -> Result:
    started_at = time.monotonic()
    with _copy() as root:
        mutation.apply(root)
        with server.database() as scratch_url:
            start = _run(root, url, "-c", _STARTS.format(url=scratch_url))
        if start.returncode:
            return Result(outcome="broken", reason=start.stderr.strip()[-300:], seconds=time.monotonic() - started_at)
        try:
            done = _test(root, url, mutation.tests, _TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Result(outcome="caught", reason="its tests hang", seconds=time.monotonic() - started_at)
    seconds = time.monotonic() - started_at
    if done.returncode == 1 and (failed := _FAILED.search(done.stdout)):
        return Result(outcome="caught", reason=failed[1].rpartition("::")[2], seconds=seconds)
    if done.returncode == 0:
        return Result(outcome="survived", reason=", ".join(mutation.tests), seconds=seconds)
    return Result(outcome="broken", reason=(done.stdout + done.stderr).strip()[-300:], seconds=seconds)


class Server:
    """A PostgreSQL server for the mutants."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database and return its URL; drop it at the end."""
        import psycopg  # noqa: PLC0415  # --list works without it

        name = f"mutant_{time.monotonic_ns():x}"
        with psycopg.connect(self._url, autocommit=True) as conn:
            conn.execute(f"create database {name} template template0".encode())
            try:
                yield self._url.rpartition("/")[0] + f"/{name}"
            finally:
                conn.execute(f"drop database {name} with (force)".encode())


@contextmanager
def _server_url() -> Iterator[str]:
    if given := os.environ.get("REACTOR_TEST_DATABASE_URL"):
        yield given
        return
    from reactor.embedded.server import EmbeddedPostgres  # noqa: PLC0415  # --list works without it

    with tempfile.TemporaryDirectory(prefix="reactor-mutants-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        with EmbeddedPostgres(Path(name) / "postgres", durable=False) as server:
            yield server.url


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Remove one guard at a time and check that a test fails.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--list", action="store_true", help="list the mutants and run nothing")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a mutant first")
    options = parser.parse_args(arguments)
    chosen = [m for m in mutations() if not options.names or m.name in options.names]
    if unknown := set(options.names) - {m.name for m in chosen}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    if options.list:
        print("\n".join(f"{m.name}  ({m.file})" for m in chosen))
        return 0
    if stale := [m for m in chosen if m.matches(ROOT) != 1]:
        print("\n".join(f"out of date: '{m.name}' matches {m.matches(ROOT)} times in {m.file}" for m in stale))
        return 1
    with _server_url() as url:
        return _run_all(chosen, url, baseline=not options.no_baseline)


def _run_all(chosen: Sequence[Mutation], url: str, *, baseline: bool) -> int:
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    if baseline:
        with _copy() as root:
            done = _test(root, url, tests)
        if done.returncode:
            print(done.stdout, "the tests failed without a mutant", sep="\n")
            return 1
    not_caught = 0
    for mutation in chosen:
        result = _try(mutation, url, Server(url))
        not_caught += result.outcome != "caught"
        print(f"{result.outcome:9} {result.seconds:4.0f} s  {mutation.name}  [{result.reason}]", flush=True)
    print(f"{len(chosen) - not_caught} of {len(chosen)} caught")
    return 1 if not_caught else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
