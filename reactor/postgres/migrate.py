"""Migrates a database to the schema that this version needs, or reports its state.

`schema/migrations/` is append-only: each file is applied once, in order of its number, in one transaction, and recorded
with its SHA-256; a file that was edited afterwards is refused. `schema/functions/` has every function as it is today;
a file that changed is applied again. `lib_` files come first, because other functions call them.

A migration whose first line is `-- no-transaction` builds indexes CONCURRENTLY, statement by statement, and may be
repeated. One migrator runs at a time: the advisory lock is polled and not waited for, because a session that waits in a
statement holds a snapshot, and another session's concurrent index build would wait for that snapshot forever.
"""

import re
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from anyio import to_thread
from psycopg import sql

from reactor.core.errors import DatabaseUnavailable, MigrationChanged
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner, connected

OLDEST_SERVER = 140000
"""PostgreSQL 14: the first with `create or replace trigger`."""

_LOCK_ID = 0x7265_6163_746F_72  # "reactor" in ASCII: the same in every version
_LOCK_WAIT_S = 60.0
_LOCK_TIMEOUT = "5s"
_ATTEMPTS = 5
_RECOUNT_USERS = 200

_LEDGER = """
create schema if not exists reactor;
create table if not exists reactor.migration (
    name text primary key,
    checksum text not null,
    applied_at timestamptz not null default now()
);
comment on table reactor.migration is 'Schema files that were applied, with the SHA-256 of each.';
"""

_CONTENT_INDEX = "sources_are_unique_by_content"
_HAS_EQUAL_INDEX = """
select exists (
    select from pg_index as i
    where i.indrelid = 'public.sources'::regclass and i.indisunique and i.indisvalid and i.indpred is null
      and (select array_agg(a.attname::text order by a.attname) from pg_attribute as a
           where a.attrelid = i.indrelid and a.attnum = any(i.indkey)) = '{content_hash,user_id}'
)
"""
"""An app may have made this index under another name. Then it isn't built again."""


class SchemaFile(NamedTuple):
    """One file under schema/."""

    name: str
    """`migrations/0001_verb_object.sql` or `functions/prefix_function.sql`."""

    text: str

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()

    @property
    def is_function(self) -> bool:
        return self.name.startswith("functions/")


class Step(NamedTuple):
    """One file and its state in the ledger."""

    file: SchemaFile

    state: str
    """'applied', 'pending', or 'changed' (edited after it was applied)."""


def schema_dir() -> Path:
    """Return the folder with the SQL: inside the installed package, or the checkout's own."""
    packaged = Path(str(files("reactor"))) / "_schema"
    return packaged if packaged.is_dir() else Path(str(files("reactor"))).parent / "schema"


def schema_files(root: Path | None = None) -> list[SchemaFile]:
    """Return every file in the order in which it is applied: migrations by number, `lib_` functions, the others."""
    root = root or schema_dir()
    schema = [
        SchemaFile(f"{folder}/{path.name}", path.read_text(encoding="utf-8"))
        for folder in ("migrations", "functions")
        for path in (root / folder).glob("*.sql")
    ]
    return sorted(schema, key=lambda file: (file.is_function, not file.name.startswith("functions/lib_"), file.name))


def plan(conninfo: str, *, root: Path | None = None) -> list[Step]:
    """Return the state of every file. Changes nothing."""
    with connected(conninfo, application_name="reactor-migrate") as conn:
        return _plan(conn, schema_files(root))


def migrate(
    conninfo: str, *, root: Path | None = None, on_file: Callable[[str], None] = lambda _name: None
) -> list[str]:
    """Apply what is missing and return the names of the files applied, in order; none when nothing is missing.

    `on_file` is called with each name before it is applied. Raises DatabaseUnavailable (unreachable, too old, a lock or
    a privilege that is missing) and MigrationChanged.
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
        missing = [step.file for step in steps if step.state != "applied"]
        for file in missing:
            on_file(file.name)
            _apply(conn, file)
        if not all(file.is_function for file in missing):
            _count_existing_rows(conn)
        return [file.name for file in missing]


def _plan(conn: psycopg.Connection, schema: list[SchemaFile]) -> list[Step]:
    recorded: dict[str, str] = {}
    if conn.execute("select to_regclass('reactor.migration')").fetchone() != (None,):
        recorded = dict(conn.execute("select name, checksum from reactor.migration").fetchall())
    unknown = recorded.keys() - {file.name for file in schema}
    if newer := min((name for name in unknown if name.startswith("migrations/")), default=None):
        raise MigrationChanged(f"the database has {newer}, which this version doesn't have: run a newer reactor")
    return [
        Step(file, {None: "pending", file.checksum: "applied"}.get(recorded.get(file.name), "changed"))
        for file in schema
    ]


def _lock(conn: psycopg.Connection) -> None:
    """Take the advisory lock for the session; try for up to a minute."""
    give_up = time.monotonic() + _LOCK_WAIT_S
    while conn.execute("select pg_try_advisory_lock(%s)", (_LOCK_ID,)).fetchone() != (True,):
        if time.monotonic() > give_up:
            raise DatabaseUnavailable(f"another migration has been running for {_LOCK_WAIT_S:.0f} s: look at it first")
        time.sleep(0.1)


def _apply(conn: psycopg.Connection, file: SchemaFile) -> None:
    """Apply one file; try again while another session holds a lock that it needs."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if not file.text.startswith("-- no-transaction"):
                with conn.transaction():
                    if file.is_function:  # it may call a function that is applied later
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
    """Run one statement outside a transaction; drop an index that an earlier try left invalid first."""
    if index := _CONCURRENTLY.search(statement):
        name, schema = index.groups()
        if name == _CONTENT_INDEX and conn.execute(_HAS_EQUAL_INDEX).fetchone() == (True,):
            return
        invalid = conn.execute(
            "select from pg_index where not indisvalid and indexrelid = to_regclass(%s)", (f"{schema}.{name}",)
        ).fetchone()
        if invalid is not None:
            conn.execute(sql.SQL("drop index concurrently {}").format(sql.Identifier(schema, name)))
    conn.execute(statement.encode())


def _statements(text: str) -> Iterator[str]:
    """Split a file of plain statements, without functions, at the semicolons that end a line."""
    for statement in re.split(r";[ \t]*\n", text):
        if re.sub(r"--.*", "", statement).strip():
            yield statement


def _count_existing_rows(conn: psycopg.Connection) -> None:
    """Count what users used before the triggers existed, some users per transaction."""
    row: tuple[Any, ...] | None = (None,)
    while row is not None:
        parameters = (row[0], _RECOUNT_USERS)
        row = conn.execute("select last_user from reactor.recount_users(%s, %s)", parameters).fetchone()


async def check_schema(database: QueryRunner, conninfo: str) -> None:
    """Refuse a database that isn't migrated, or a role that can't see or do the work. Raises DatabaseUnavailable."""
    steps = await to_thread.run_sync(plan, conninfo)
    missing = [step.file.name for step in steps if step.state != "applied"]
    if missing:
        raise DatabaseUnavailable(
            f"the database lacks {len(missing)} of {len(steps)} schema files ({missing[0]}, …): run `reactor migrate`"
        )
    problems = [row[0] for row in await database.call(statements.MISSING_PRIVILEGES)]
    if problems:
        raise DatabaseUnavailable("; ".join(problems) + ": connect as reactor_worker or the tables' owner")
