"""Finds what makes the database refuse the reactor's changes: constraints of the app, and rows that it can't change."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, LiteralString, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

from reactor.core.errors import DatabaseRefused
from reactor.postgres import statements
from reactor.postgres.session import Session
from reactor.postgres.sqlstate import CALL_ERRORS, database_failure

_STATUSES: Final[Sequence[tuple[str, str, Sequence[str]]]] = (
    ("interpretation_runs", "status", ("running", "failed", "completed")),
    ("sources", "storage_status", ("pending", "uploaded", "failed")),
)
"""Table and column, with the values that the reactor and its SQL functions write."""

_CHECKS: LiteralString = """
    select c.conname, pg_catalog.pg_get_expr(c.conbin, c.conrelid) as condition
      from pg_catalog.pg_constraint as c
      join pg_catalog.pg_attribute as a on a.attrelid = c.conrelid and a.attname = %s
     where c.conrelid = pg_catalog.to_regclass(%s) and c.contype = 'c' and c.conkey = array[a.attnum]
     order by c.conname
"""

_TYPE: LiteralString = """
    select pg_catalog.format_type(a.atttypid, a.atttypmod)
      from pg_catalog.pg_attribute as a
     where a.attrelid = pg_catalog.to_regclass(%s) and a.attname = %s and not a.attisdropped
"""

_OVERDUE_RUNS: LiteralString = """
    select r.id
      from public.interpretation_runs as r
     where r.status = 'running'
       and reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, %s))
           < statement_timestamp() - interval '10 s'
     order by r.id
     limit %s
"""


class RefusedRun(NamedTuple):
    """An overdue run that the database refuses to fail."""

    id: UUID
    reason: str


def forbidden_statuses(conn: Session) -> Iterator[str]:
    """Yield a sentence with its fix for each status that a constraint or type of the app doesn't allow.

    Reads only constraints on that column alone: whether another one allows a status depends on the row.
    """
    for table, column, values in _STATUSES:
        row = conn.run(_TYPE, (f"public.{table}", column)).fetchone()
        if row is None:
            continue
        checks = conn.run(_CHECKS, (column, f"public.{table}")).fetchall()
        for value in values:
            if (reason := _why_not(conn, column, row[0], value, checks)) is not None:
                yield f"public.{table}.{column} doesn't allow '{value}': {reason}"


def _why_not(conn: Session, column: str, type_name: str, value: str, checks: Sequence[Any]) -> str | None:
    """Return why a column can't have this value; None if it can."""
    typed = sql.SQL("select {}::{} as {}").format(value, sql.SQL(type_name), sql.Identifier(column))
    with suppress(psycopg.Error):
        conn.run(typed)
        for name, condition in checks:
            with suppress(psycopg.Error):  # a function of the app that fails here may work for a row
                words = sql.SQL("select ({}) from ({}) as r").format(sql.SQL(condition), typed)
                if conn.run(words).fetchone() == (False,):
                    return f"add it to the CHECK {name}"
        return None
    return f"add it to the type {type_name}"


def refused_runs(conn: Session, heartbeat_timeout_s: float, limit: int) -> list[RefusedRun]:
    """Try to fail up to `limit` overdue runs, each in a transaction that is rolled back; return the refused ones."""
    timeout = timedelta(seconds=heartbeat_timeout_s)
    refused = []
    for (run_id,) in conn.run(_OVERDUE_RUNS, (timeout, limit)).fetchall():
        try:
            with conn.transaction(force_rollback=True):
                conn.execute("set local lock_timeout = '200ms'")
                conn.execute(statements.EXPIRE_RUNS, ([run_id], timeout))
                conn.execute("set constraints all immediate")
        except CALL_ERRORS as error:
            failure = database_failure(error)
            if isinstance(
                failure, DatabaseRefused
            ):  # else another session has the row, or a pooler is in statement mode
                refused.append(RefusedRun(run_id, str(failure)))
    return refused
