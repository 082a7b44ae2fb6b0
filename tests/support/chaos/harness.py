"""The harness of chaos tests: an audited database, a spool, a store, reactor processes, and the final check."""

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from support.chaos import db_audit
from support.chaos.db_audit import connection_to
from support.chaos.final_check import Findings, Objects, check, folder_objects
from support.chaos.load import Load
from support.process import Running, environment, start
from support.servers.postgres import own_server

LEASE_S = 2.0
CRASH_POINT = Path(__file__).with_name("crash_point.py")


class Harness:
    """An audited database, a spool and a store for reactor processes. Its methods inject faults of the database."""

    def __init__(self, server: EmbeddedPostgres, url: str, home: Path) -> None:
        self.server = server
        self.url = url
        self.home = home
        self.spool, self.store = home / "spool", home / "store"
        for folder in (self.spool, self.store):
            folder.mkdir()

    def env(self, **settings: str) -> dict[str, str]:
        """Return the environment of a reactor process in this harness."""
        return environment(
            **{
                "DATABASE_URL": self.url,
                "STORE_URL": self.store.as_uri(),
                "SPOOL_DIR": str(self.spool),
                "HTTP_PORT": "0",
                "RETRY_BASE": "0.1s",
                "RETRY_MAX": "1s",
                "LEASE": f"{LEASE_S}s",
                "SHUTDOWN_GRACE": "5s",
            }
            | settings
        )

    def load(self, url: str | None = None, **options: Any) -> Load:
        """Make an app that connects to `url`. The default is the URL of the database itself."""
        load = Load(url or self.url, self.spool, **options)
        with connection_to(self.url) as conn:
            load.prepare(conn)
        return load

    def check(self, load: Load, *, objects: Objects | None = None, within_s: float = 90.0) -> Findings:
        """Wait until all work is drained, and assert that every invariant holds."""
        read = objects or folder_objects(self.store)
        findings = check(self.url, self.spool, read, load.history, within_s=within_s)
        assert findings.problems == []
        return findings

    def stored(self) -> int:
        """Return how many sources the reactors have stored."""
        with connection_to(self.url) as conn:
            statement = "select count(*) as n from public.sources where storage_url like any('{file:%,s3:%}')"
            n: int = conn.execute(statement).fetchall()[0]["n"]
        return n

    def wait_for_next_stored(self, within_s: float = 60.0) -> None:
        """Wait until another upload is stored."""
        before, give_up = self.stored(), time.monotonic() + within_s
        while self.stored() <= before:
            assert time.monotonic() < give_up, f"no upload was stored within {within_s} s"
            time.sleep(0.02)

    def drop_triggers(self) -> None:
        """Drop the notifying triggers, so that only reconciliation finds work."""
        with connection_to(self.url) as conn:
            for table in ("upload_queue", "interpretation_runs"):
                for trigger in ("inserted", "updated"):
                    conn.execute(f"drop trigger reactor_notify_{trigger} on public.{table}".encode())

    def terminate_sessions(self, names: str = "reactor%") -> int:
        """Terminate all sessions whose application name is like `names`; return their number."""
        return self._terminate_sessions(names, None)

    def terminate_one_session(self, names: str = "reactor%") -> int:
        """Terminate one random session whose application name is like `names`; return 1, or 0 if there is none."""
        return self._terminate_sessions(names, 1)

    def _terminate_sessions(self, names: str, most: int | None) -> int:
        with connection_to(self.url) as conn:
            return len(
                conn.execute(
                    "select pg_terminate_backend(pid) from (select pid from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid() and application_name like %s"
                    " order by random() limit %s) as chosen",
                    (names, most),
                ).fetchall()
            )


def figure(what: str, *values: float | str) -> None:
    """Print a measured figure for `pytest -s`, and append it to the file that REACTOR_TEST_FIGURES names."""
    line = f"{what}: {', '.join(value if isinstance(value, str) else f'{value:.3g}' for value in values)}"
    print(f"\n{line}")  # noqa: T201  # shown by pytest -s
    if file := os.environ.get("REACTOR_TEST_FIGURES"):
        with Path(file).open("a") as figures:
            figures.write(line + "\n")


class Fleet:
    """The reactor processes that a test has started."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.all: list[Running] = []

    def start(self, variables: Mapping[str, str] | None = None, **settings: str) -> Running:
        """Start a reactor, and don't wait until it is ready. The names in `variables` get no prefix REACTOR_."""
        run = start(self._harness.env(**settings) | dict(variables or {}), cwd=self._harness.home)
        self.all.append(run)
        return run

    def start_with_crash_point(self, point: str, number: int = 1, **settings: str) -> Running:
        """Start a reactor that kills itself at a named point (crash_point.py)."""
        command = (sys.executable, str(CRASH_POINT), point, str(number))
        run = start(self._env_with_path(settings), cwd=self._harness.home, command=command)
        self.all.append(run)
        return run

    def _env_with_path(self, settings: dict[str, str]) -> dict[str, str]:
        return self._harness.env(**settings) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def end(self) -> None:
        for number, run in enumerate(self.all):
            (self._harness.home / f"reactor-{number}.log").write_text(run.log)
            run.process.kill()
            run.process.wait(10)
            run.join()

    def assert_sound(self) -> None:
        """Assert that each reactor still runs or ended as expected, and that none logged a traceback.

        A reactor may end with exit code 0, by SIGKILL, by a SIGTERM that arrived before its handler was installed, or
        with exit code 1 and DATABASE_UNAVAILABLE if the database was down at the start.
        """
        for run in self.all:
            code = run.process.poll()
            is_expected = code in (None, 0, -signal.SIGKILL, -signal.SIGTERM)
            assert is_expected or (code == 1 and "DATABASE_UNAVAILABLE" in run.log), (
                f"ended with {code}:\n{run.log[-5_000:]}"
            )
            assert "Traceback" not in run.log, run.log[run.log.index("Traceback") - 500 :][:5_000]


@contextmanager
def fleet(harness: Harness) -> Iterator[Fleet]:
    """Yield a fleet; kill its remaining processes on leaving."""
    reactors = Fleet(harness)
    try:
        yield reactors
    finally:
        reactors.end()


@contextmanager
def open_harness(home: Path, server: EmbeddedPostgres | None = None) -> Iterator[Harness]:
    """Yield a harness on `server`; if None, on a new server that stops at the end."""
    with ExitStack() as stack:
        server = server or stack.enter_context(own_server())
        url = stack.enter_context(audited_database(server.url))
        yield Harness(server, url, home)


@contextmanager
def audited_database(server_url: str) -> Iterator[str]:
    """Create a migrated database with audit triggers and yield its URL; drop it at the end unless the test failed."""
    name = f"chaos_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(name)))
    url = urlsplit(server_url)._replace(path=f"/{name}").geturl()
    migrate(url)
    with psycopg.connect(url, autocommit=True) as conn:
        db_audit.install(conn)
    yield url
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
