"""Bring a database to the schema that this version needs, or say how far it is.

`schema/migrations/` is append-only: each file is applied once, in order of its number, in one transaction, and
recorded with its SHA-256; a file that was edited afterwards is refused. `schema/functions/` holds every function as
it is today; what changed is applied again. One advisory lock makes two migrators at once the same as one.

A migration whose first line is `-- no-transaction` builds indexes CONCURRENTLY, statement by statement; each of them
is written so that starting over is harmless. It is tried for rather than waited for, like the advisory lock: a
session that waits inside a statement holds a snapshot, and a concurrent build would wait for that for ever.
"""

import re
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import psycopg
from attrs import frozen
from psycopg import sql

from reactor.core.errors import DatabaseUnavailable, MigrationChanged
from reactor.postgres.connection import connected

OLDEST_SERVER = 140000
"""PostgreSQL 14: the first with `create or replace trigger`."""

_LOCK_ID = 0x7265_6163_746F_72  # "reactor" in ASCII: one number that every version agrees on
_LOCK_WAIT_S = 60.0
_LOCK_TIMEOUT = "5s"
_ATTEMPTS = 5
_BACKFILL_USERS = 200

_LEDGER = """
create schema if not exists reactor;
create table if not exists reactor.migration (
    name text primary key,
    checksum text not null,
    applied_at timestamptz not null default now()
);
comment on table reactor.migration is 'Schema files that were applied, with the SHA-256 of each.';
"""


@frozen(kw_only=True)
class SchemaFile:
    """One file under schema/."""

    name: str
    """`migrations/0001_verb_object.sql` or `functions/verb_object.sql`."""

    text: str

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    @property
    def is_function(self) -> bool:
        return self.name.startswith("functions/")

    @property
    def in_transaction(self) -> bool:
        return not self.text.startswith("-- no-transaction")


@frozen(kw_only=True)
class Step:
    """What the ledger says of one file: 'applied', 'pending', or 'changed' (edited after it was applied)."""

    file: SchemaFile
    state: str


def schema_dir() -> Path:
    """Return the folder with the SQL: inside the installed package, else the checkout's own."""
    packaged = Path(str(files("reactor"))) / "_schema"
    return packaged if packaged.is_dir() else Path(str(files("reactor"))).parent / "schema"


def schema_files(root: Path | None = None) -> list[SchemaFile]:
    """Return every file in the order in which it is applied: migrations by number, then functions by name."""
    root = root or schema_dir()
    return [
        SchemaFile(name=f"{folder}/{path.name}", text=path.read_text(encoding="utf-8"))
        for folder in ("migrations", "functions")
        for path in sorted((root / folder).glob("*.sql"))
    ]


def plan(conninfo: str, *, root: Path | None = None) -> list[Step]:
    """Say of every file whether it is applied, pending or changed. Changes nothing."""
    with connected(conninfo, application_name="reactor-migrate") as conn:
        return _plan(conn, schema_files(root))


def migrate(conninfo: str, *, root: Path | None = None, tell: Callable[[str], None] = lambda _name: None) -> list[str]:
    """Apply what is missing and return the names of the files applied, in order; none when all is in place.

    `tell` hears each name before it is applied. Raises DatabaseUnavailable (unreachable, too old, a lock or a
    privilege that can't be had) and MigrationChanged.
    """
    schema = schema_files(root)
    with connected(conninfo, application_name="reactor-migrate") as conn:
        if conn.info.server_version < OLDEST_SERVER:
            major = conn.info.server_version // 10000
            raise DatabaseUnavailable(f"PostgreSQL {major} is too old: 14 or newer is needed")
        conn.execute(sql.SQL("set lock_timeout = {}").format(_LOCK_TIMEOUT))
        _lock(conn)
        with conn.transaction():
            conn.execute("set local client_min_messages = warning")
            if conn.execute("select to_regclass('reactor.migration')").fetchone() == (None,):
                conn.execute(_LEDGER)
        steps = _plan(conn, schema)
        for step in steps:  # before anything is applied
            if step.state == "changed" and not step.file.is_function:
                raise MigrationChanged(
                    f"schema/{step.file.name} was edited after it was applied: restore it, and put the change "
                    "into a new migration"
                )
        applied = []
        for step in steps:
            if step.state != "applied":
                tell(step.file.name)
                _apply(conn, step.file)
                applied.append(step.file.name)
        if any(name.startswith("migrations/") for name in applied):
            _count_existing_sources(conn)
        return applied


def _plan(conn: psycopg.Connection, schema: list[SchemaFile]) -> list[Step]:
    known: dict[str, str] = {}
    if conn.execute("select to_regclass('reactor.migration')").fetchone() != (None,):
        known = dict(conn.execute("select name, checksum from reactor.migration").fetchall())
    missing = sorted(known.keys() - {file.name for file in schema})
    if gone := [name for name in missing if name.startswith("migrations/")]:
        raise MigrationChanged(f"the database has {gone[0]}, which this version doesn't know: run a newer reactor")
    state_of = {None: "pending", True: "applied", False: "changed"}
    return [
        Step(file=file, state=state_of[known[file.name] == file.checksum if file.name in known else None])
        for file in schema
    ]


def _lock(conn: psycopg.Connection) -> None:
    """Take the advisory lock for the session, trying for up to a minute."""
    give_up = time.monotonic() + _LOCK_WAIT_S
    while conn.execute("select pg_try_advisory_lock(%s)", (_LOCK_ID,)).fetchone() != (True,):
        if time.monotonic() > give_up:
            raise DatabaseUnavailable(f"another migration has been running for {_LOCK_WAIT_S:.0f} s: look at it first")
        time.sleep(0.1)


def _apply(conn: psycopg.Connection, file: SchemaFile) -> None:
    """Apply one file, trying again while somebody holds a lock that it needs."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if file.in_transaction:
                with conn.transaction():
                    if file.is_function:  # one may call another that comes later
                        conn.execute("set local check_function_bodies = off")
                    conn.execute(file.text.encode())
                    _record(conn, file)
            else:
                for statement in _statements(file.text):
                    _apply_concurrently(conn, statement)
                _record(conn, file)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if attempt == _ATTEMPTS:
                raise DatabaseUnavailable(
                    f"schema/{file.name}: a table stayed locked for {_ATTEMPTS} x {_LOCK_TIMEOUT}; end the long "
                    "transaction that holds it, then migrate again"
                ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseUnavailable(
                f"schema/{file.name}: {error.diag.message_primary}; migrate as the tables' owner, with CREATEROLE"
            ) from error
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"schema/{file.name}: {error.diag.message_primary or error}") from error
        else:
            return


def _record(conn: psycopg.Connection, file: SchemaFile) -> None:
    conn.execute(
        "insert into reactor.migration as m (name, checksum) values (%s, %s) "
        "on conflict (name) do update set checksum = excluded.checksum, applied_at = now()",
        (file.name, file.checksum),
    )


_CONCURRENTLY = re.compile(r"create (?:unique )?index concurrently if not exists (\w+)\s+on (\w+)\.", re.IGNORECASE)


def _apply_concurrently(conn: psycopg.Connection, statement: str) -> None:
    """Run one statement outside a transaction; an index that an earlier try left half-built is dropped first."""
    if unless := re.search(r"^-- unless:.*\n((?:-- .*\n)+)", statement, re.MULTILINE):
        question = "\n".join(line.removeprefix("-- ") for line in unless.group(1).splitlines())
        if conn.execute(question.encode()).fetchone() == (True,):
            return
    if index := _CONCURRENTLY.search(statement):
        name, schema = index.groups()
        invalid = conn.execute(
            "select from pg_index where not indisvalid and indexrelid = to_regclass(%s)", (f"{schema}.{name}",)
        ).fetchone()
        if invalid is not None:
            conn.execute(sql.SQL("drop index concurrently {}").format(sql.Identifier(schema, name)))
    conn.execute(statement.encode())


def _statements(text: str) -> Iterator[str]:
    """Split a file of plain statements (no functions in it) at the semicolons that end a line."""
    for statement in re.split(r";[ \t]*\n", text):
        if re.sub(r"--.*", "", statement).strip():
            yield statement


def _count_existing_sources(conn: psycopg.Connection) -> None:
    """Open the books of users who had sources before the trigger was there; a few users to a transaction."""
    after = None
    while True:
        row = conn.execute("select last_user from reactor.recount_users(%s, %s)", (after, _BACKFILL_USERS)).fetchone()
        if row is None:
            return
        (after,) = row
