"""Remove one guard of the product at a time, and look whether the tests notice: a suite that never fails proves little.

    python tests/mutation/mutants.py --list
    python tests/mutation/mutants.py ["claims without a lock" …]

tests/mutation/*.toml says what is removed: a table for each mutation, named for what the mutant does wrong, with the
`file`, the `old` text (which it has once), the `new` one, and the `tests` that must go red. Each mutant is a copy of
the tree, in which the schema must still migrate and the package be imported: what can't even start proves nothing. The
tests must be green before, and the first that goes red is reported. Exits 1 when a mutant survives.
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
_SOUND = (
    "import reactor.app, reactor.cli, reactor.client; from reactor.postgres.migrate import migrate; migrate({url!r})"
)
_LONGEST_S = 180.0
"""After which a test that hangs is taken for one that fails, as CI would take it."""


@frozen(kw_only=True)
class Mutation:
    """One guard, and its removal."""

    name: str
    """What the mutant does wrong."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Files of tests, at least one test of which must go red."""

    def matches(self, root: Path) -> int:
        """Return how often the file has the old text; anything but once says that the mutation is out of date."""
        return (root / self.file).read_text().count(self.old)

    def apply(self, root: Path) -> None:
        path = root / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


@frozen(kw_only=True)
class Verdict:
    """What became of one mutant."""

    word: str
    """'caught', 'survived', or 'stillborn': it can't be told from a tree that is broken."""

    by: str
    seconds: float


def mutations() -> list[Mutation]:
    """Return all that are written down, in order."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text()).items():
            found.append(Mutation(name=name, tests=tuple(table.pop("tests")), **table))
    return found


@contextmanager
def _copy() -> Iterator[Path]:
    """Copy the tree to where other accounts can pass through, as the embedded server needs it."""
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


def _run(root: Path, url: str, *arguments: str, within_s: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=_environment(root, url), text=True, capture_output=True,
        timeout=within_s, check=False,
    )  # fmt: skip


def _test(
    root: Path, url: str, tests: Sequence[str], within_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    return _run(root, url, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests, within_s=within_s)


def _judge(mutation: Mutation, url: str, database: "Scratch") -> Verdict:
    began = time.monotonic()
    with _copy() as root:
        mutation.apply(root)
        with database.make() as scratch_url:
            sound = _run(root, url, "-c", _SOUND.format(url=scratch_url))
        if sound.returncode:
            return Verdict(word="stillborn", by=sound.stderr.strip()[-300:], seconds=time.monotonic() - began)
        try:
            done = _test(root, url, mutation.tests, _LONGEST_S)
        except subprocess.TimeoutExpired:
            return Verdict(word="caught", by="its tests hang", seconds=time.monotonic() - began)
    seconds = time.monotonic() - began
    if done.returncode == 1 and (failed := _FAILED.search(done.stdout)):
        return Verdict(word="caught", by=failed[1].rpartition("::")[2], seconds=seconds)
    if done.returncode == 0:
        return Verdict(word="survived", by=", ".join(mutation.tests), seconds=seconds)
    return Verdict(word="stillborn", by=(done.stdout + done.stderr).strip()[-300:], seconds=seconds)


class Scratch:
    """Makes empty databases on a server."""

    def __init__(self, url: str) -> None:
        self._url = url

    @contextmanager
    def make(self) -> Iterator[str]:
        import psycopg  # noqa: PLC0415  # a mutant's own interpreter reads this file without a server

        name = f"mutant_{time.monotonic_ns():x}"
        with psycopg.connect(self._url, autocommit=True) as conn:
            conn.execute(f"create database {name} template template0".encode())
            try:
                yield self._url.rpartition("/")[0] + f"/{name}"
            finally:
                conn.execute(f"drop database {name} with (force)".encode())


@contextmanager
def _server() -> Iterator[str]:
    if given := os.environ.get("REACTOR_TEST_DATABASE_URL"):
        yield given
        return
    from reactor.embedded.server import EmbeddedPostgres  # noqa: PLC0415  # as above

    with tempfile.TemporaryDirectory(prefix="reactor-mutants-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        with EmbeddedPostgres(Path(name) / "postgres", durable=False) as server:
            yield server.url


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Remove one guard at a time, and look whether the tests notice.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--list", action="store_true", help="say which there are, and run nothing")
    parser.add_argument("--no-baseline", action="store_true", help="take it that the tests are green without a mutant")
    asked = parser.parse_args(arguments)
    chosen = [m for m in mutations() if not asked.names or m.name in asked.names]
    if unknown := set(asked.names) - {m.name for m in chosen}:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    if asked.list:
        print("\n".join(f"{m.name}  ({m.file})" for m in chosen))
        return 0
    if stale := [m for m in chosen if m.matches(ROOT) != 1]:
        print("\n".join(f"out of date: '{m.name}' matches {m.matches(ROOT)} times in {m.file}" for m in stale))
        return 1
    with _server() as url:
        return _hunt(chosen, url, baseline=not asked.no_baseline)


def _hunt(chosen: Sequence[Mutation], url: str, *, baseline: bool) -> int:
    tests = sorted({test for mutation in chosen for test in mutation.tests})
    if baseline:
        with _copy() as root:
            done = _test(root, url, tests)
        if done.returncode:
            print(done.stdout, "the tests aren't green without a mutant", sep="\n")
            return 1
    escaped = 0
    for mutation in chosen:
        verdict = _judge(mutation, url, Scratch(url))
        escaped += verdict.word != "caught"
        print(f"{verdict.word:9} {verdict.seconds:4.0f} s  {mutation.name}  [{verdict.by}]", flush=True)
    print(f"{len(chosen) - escaped} of {len(chosen)} caught")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
