"""Migrates a database to the schema that this version needs, or reports the state of its schema.

`schema/migrations/` is append-only. Each file is applied once, in order of its number, in one transaction, and recorded
with its SHA-256. Editing an applied file raises MigrationChanged. `schema/functions/` has the current version of every
function; a file that has changed is applied again. `lib_` files come first, because other functions call them.

A migration that begins with `-- no-transaction` builds indexes CONCURRENTLY, statement by statement, and may be
repeated. An advisory lock lets one migrator run at a time. Other migrators poll the lock. A statement that waits for
it would hold a snapshot, and the first migrator's concurrent index build would wait forever for the snapshot's end.
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

from reactor.core.errors import DatabaseForbidden, DatabaseUnavailable, MigrationChanged
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner, connected
from reactor.postgres.refusals import forbidden_statuses
from reactor.postgres.sqlstate import database_failure

OLDEST_SERVER = 140000
"""PostgreSQL 14, the first version with `create or replace trigger`."""

_LOCK_ID = 0x7265_6163_746F_72  # "reactor" in ASCII; must be the same in every version
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
"""Whether the app has this index under another name. Then it isn't built."""


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
    """Return the folder with the SQL: in the installed package, else in the checkout."""
    packaged = Path(str(files("reactor"))) / "_schema"
    return packaged if packaged.is_dir() else Path(str(files("reactor"))).parent / "schema"


def schema_files(root: Path | None = None) -> list[SchemaFile]:
    """Return all files in the order of their application: migrations by number, `lib_` functions, other functions."""
    root = root or schema_dir()
    schema = [
        SchemaFile(f"{folder}/{path.name}", path.read_text(encoding="utf-8"))
        for folder in ("migrations", "functions")
        for path in (root / folder).glob("*.sql")
    ]
    return sorted(schema, key=lambda file: (file.is_function, not file.name.startswith("functions/lib_"), file.name))


def plan(conninfo: str, *, root: Path | None = None) -> list[Step]:
    """Return the state of every schema file. Changes nothing."""
    with connected(conninfo, application_name="reactor-migrate") as conn:
        return _plan(conn, schema_files(root))


def migrate(
    conninfo: str,
    *,
    root: Path | None = None,
    on_file: Callable[[str], None] = lambda _name: None,
    on_warning: Callable[[str], None] = lambda _sentence: None,
) -> list[str]:
    """Apply the files that are pending or changed; return their names in the order of application.

    `on_file` is called with the name of each file before it is applied, `on_warning` with a sentence for each status
    that a constraint of the app doesn't allow. Raises MigrationChanged; DatabaseUnavailable if
    the server is unreachable or too old, or a table stays locked; DatabaseForbidden if a privilege is missing.
    """
    schema = schema_files(root)
    with connected(conninfo, application_name="reactor-migrate", needs_writes=True) as conn:
        if conn.info.server_version < OLDEST_SERVER:
            major = conn.info.server_version // 10000
            raise DatabaseUnavailable(f"PostgreSQL {major} is too old: 14 or newer is needed")
        conn.execute(sql.SQL("set lock_timeout = {}").format(_LOCK_TIMEOUT))
        conn.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        _lock(conn)
        with conn.transaction():
            conn.execute("set local client_min_messages = warning")
            if conn.execute("select to_regclass('reactor.migration')").fetchone() == (None,):
                conn.execute(_LEDGER)
        steps = _plan(conn, schema)
        for step in steps:  # checked before any file is applied
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
        for sentence in forbidden_statuses(conn):
            on_warning(sentence)
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
    """Take the advisory lock for the session. Raises DatabaseUnavailable if another session has it for 60 s."""
    give_up = time.monotonic() + _LOCK_WAIT_S
    while conn.execute("select pg_try_advisory_lock(%s)", (_LOCK_ID,)).fetchone() != (True,):
        if time.monotonic() > give_up:
            raise DatabaseUnavailable(f"another migration has been running for {_LOCK_WAIT_S:.0f} s: look at it first")
        time.sleep(0.1)


def _apply(conn: psycopg.Connection, file: SchemaFile) -> None:
    """Apply one file. Repeats this up to four times if another session has locked a table."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if not file.text.startswith("-- no-transaction"):
                with conn.transaction():
                    if file.is_function:  # the function may call a function that is applied later
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
            raise DatabaseForbidden(
                f"schema/{file.name}: {error.diag.message_primary}; migrate as the tables' owner, with CREATEROLE"
            ) from error
        except psycopg.Error as error:
            failure = database_failure(error)
            raise type(failure)(f"schema/{file.name}: {failure}") from error
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
    """Run one statement outside a transaction. First drop its index if an earlier try has left it invalid."""
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
    """Yield the statements of a file without functions: each ends with a semicolon at the end of a line."""
    for statement in re.split(r";[ \t]*\n", text):
        if re.sub(r"--.*", "", statement).strip():
            yield statement


def _count_existing_rows(conn: psycopg.Connection) -> None:
    """Count the usage of rows that are older than the triggers, 200 users per transaction."""
    row: tuple[Any, ...] | None = (None,)
    while row is not None:
        parameters = (row[0], _RECOUNT_USERS)
        row = conn.execute("select last_user from reactor.recount_users(%s, %s)", parameters).fetchone()


async def check_schema(database: QueryRunner, conninfo: str) -> None:
    """Raise DatabaseForbidden if the database isn't migrated, or the role lacks privileges for the reactor's work."""
    steps = await to_thread.run_sync(plan, conninfo)
    missing = [step.file.name for step in steps if step.state != "applied"]
    if missing:
        raise DatabaseForbidden(
            f"the database lacks {len(missing)} of {len(steps)} schema files ({missing[0]}, …): run `reactor migrate`"
        )
    problems = [row[0] for row in await database.call(statements.MISSING_PRIVILEGES)]
    if problems:
        raise DatabaseForbidden("; ".join(problems) + ": connect as reactor_worker or the tables' owner")
