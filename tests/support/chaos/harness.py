"""A world for reactors to fail in: a database of its own, a spool, a store, an app under load, a checker."""

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
    """What reactors are put through."""

    def __init__(self, server: EmbeddedPostgres, url: str, home: Path) -> None:
        self.server = server
        self.url = url
        self.home = home
        self.spool, self.store = home / "spool", home / "store"
        for folder in (self.spool, self.store):
            folder.mkdir()

    def env(self, **settings: str) -> dict[str, str]:
        """Return the environment of a reactor that works here."""
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
        """Make an app; `url` is where it connects to."""
        load = Load(url or self.url, self.spool, **options)
        with connection_to(self.url) as conn:
            load.prepare(conn)
        return load

    def check(self, load: Load, *, objects: Objects | None = None, within_s: float = 90.0) -> Findings:
        """Look at everything; it must have been drained in time, and nothing may be wrong."""
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
        """Wait until one more upload is stored than now."""
        before, give_up = self.stored(), time.monotonic() + within_s
        while self.stored() <= before:
            assert time.monotonic() < give_up, "nothing is stored any more"
            time.sleep(0.02)

    def drop_triggers(self) -> None:
        """Drop what notifies: from now on only reconciliation finds anything."""
        with connection_to(self.url) as conn:
            for table in ("upload_queue", "interpretation_runs"):
                for trigger in ("inserted", "updated"):
                    conn.execute(f"drop trigger reactor_notify_{trigger} on public.{table}".encode())

    def terminate_sessions(self, names: str = "reactor%") -> int:
        """Terminate the backends of these applications, and return how many there were."""
        return self._end_sessions(names, None)

    def terminate_one_session(self, names: str = "reactor%") -> int:
        """Terminate one of them, whichever."""
        return self._end_sessions(names, 1)

    def _end_sessions(self, names: str, most: int | None) -> int:
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
    """Print a figure that a test saw; `pytest -s` shows it, and so does REACTOR_TEST_FIGURES=file."""
    line = f"{what}: {', '.join(value if isinstance(value, str) else f'{value:.3g}' for value in values)}"
    print(f"\n{line}")  # noqa: T201  # for whoever asked
    if file := os.environ.get("REACTOR_TEST_FIGURES"):
        with Path(file).open("a") as figures:
            figures.write(line + "\n")


class Fleet:
    """Real reactor processes, each started anew when a test wishes."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.all: list[Running] = []

    def start(self, variables: Mapping[str, str] | None = None, **settings: str) -> Running:
        """Start a reactor without waiting for it; `variables` are others than the reactor's own."""
        run = start(self._harness.env(**settings) | dict(variables or {}), cwd=self._harness.home)
        self.all.append(run)
        return run

    def start_with_crash_point(self, point: str, number: int = 1, **settings: str) -> Running:
        """Start a reactor that is killed at a named point (dying.py)."""
        command = (sys.executable, str(CRASH_POINT), point, str(number))
        run = start(self._path(settings), cwd=self._harness.home, command=command)
        self.all.append(run)
        return run

    def _path(self, settings: dict[str, str]) -> dict[str, str]:
        return self._harness.env(**settings) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def end(self) -> None:
        for number, run in enumerate(self.all):
            (self._harness.home / f"reactor-{number}.log").write_text(run.log)
            run.process.kill()
            run.process.wait(10)
            run.join()

    def assert_sound(self) -> None:
        """Assert that each of them runs or ended as it was told to, and that none was surprised.

        One that was told to stop before it could hear it ends with the signal, and one that found no database at its
        start with 1 and a word about it: whoever supervises it starts it again.
        """
        for run in self.all:
            code = run.process.poll()
            told = code in (None, 0, -signal.SIGKILL, -signal.SIGTERM)
            assert told or (code == 1 and "DATABASE_UNAVAILABLE" in run.log), f"ended with {code}:\n{run.log[-5_000:]}"
            assert "Traceback" not in run.log, run.log[run.log.index("Traceback") - 500 :][:5_000]


@contextmanager
def fleet(harness: Harness) -> Iterator[Fleet]:
    """Whatever is left of the reactors on leaving is killed."""
    ships = Fleet(harness)
    try:
        yield ships
    finally:
        ships.end()


@contextmanager
def open_harness(home: Path, server: EmbeddedPostgres | None = None) -> Iterator[Harness]:
    """Make a world, on this server or on one that lives no longer than it."""
    with ExitStack() as stack:
        server = server or stack.enter_context(own_server())
        url = stack.enter_context(audited_database(server.url))
        yield Harness(server, url, home)


@contextmanager
def audited_database(server_url: str) -> Iterator[str]:
    """Make a migrated database with a witness in it, and yield its URL; drop it at the end if the server lives."""
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
