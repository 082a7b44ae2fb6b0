"""The real schema, with a clock that the test sets and with notifications in a table.

`install_test_clock` replaces the clock functions and pg_notify in all functions of the schema. After that, the same
calls at the same times have only one correct result, which the simulated database must return too.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

_STAND_INS = """
    create schema simulation;
    create function simulation.clock() returns timestamptz language sql stable
        as $$ select to_timestamp(current_setting('simulation.now')::float8) $$;
    create table simulation.sent (n bigint generated always as identity, channel text, payload text);
    create function simulation.notify(text, text) returns void language sql
        as $$ insert into simulation.sent (channel, payload) values ($1, $2) $$;
"""
_FUNCTIONS = """
    select pg_get_functiondef(p.oid)
      from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
     where n.nspname in ('public', 'reactor')
       and p.prosrc ~ '(clock_timestamp|statement_timestamp|now|pg_notify)\\('
"""
_DEFAULTS = """
    select c.table_schema, c.table_name, c.column_name
      from information_schema.columns as c
     where c.table_schema in ('public', 'reactor') and c.column_default = 'now()'
"""
_RENAMED = {
    "clock_timestamp()": "simulation.clock()",
    "statement_timestamp()": "simulation.clock()",
    "pg_notify(": "simulation.notify(",
}

_NAME = re.compile("|".join(map(re.escape, _RENAMED)))

_TABLES = {
    "sources": """
        select id, user_id, content_hash, byte_size, storage_status, storage_url,
               extract(epoch from pending_since)::float8 as pending_since from public.sources""",
    "uploads": """
        select id, source_id, user_id, bucket, object_path, content_hash, byte_size, temp_file_path, traceparent,
               max_retries, extract(epoch from next_retry_at)::float8 as next_retry_at,
               extract(epoch from created_at)::float8 as created_at,
               extract(epoch from updated_at)::float8 as updated_at, spool, status, retry_count, claim_count,
               error_code, lease_token, extract(epoch from lease_expires_at)::float8 as lease_expires_at,
               jsonb_array_length(errors) as errors from public.upload_queue""",
    "runs": """
        select id, user_id, source_id, traceparent, extract(epoch from created_at)::float8 as created_at,
               extract(epoch from started_at)::float8 as started_at,
               extract(epoch from heartbeat_at)::float8 as heartbeat_at,
               extract(epoch from heartbeat_notified_until)::float8 as heartbeat_notified_until,
               extract(epoch from timeout_at)::float8 as timeout_at,
               extract(epoch from heartbeat_timeout)::float8 as heartbeat_timeout, status, error_code,
               extract(epoch from completed_at)::float8 as completed_at from public.interpretation_runs""",
    "usage": "select user_id as id, total_bytes, reserved_bytes, total_sources from public.storage_usage",
    "instances": "select id, extract(epoch from seen_at)::float8 as seen_at, mode from reactor.instance",
}


def install_test_clock(url: str) -> None:
    """Replace the clock and the notifications in a migrated database."""
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(_STAND_INS)
        for (definition,) in conn.execute(_FUNCTIONS).fetchall():
            conn.execute(_NAME.sub(lambda found: _RENAMED[found[0]], definition).encode())
        for schema, table, column in conn.execute(_DEFAULTS).fetchall():
            conn.execute(
                sql.SQL("alter table {} alter column {} set default simulation.clock()").format(
                    sql.Identifier(schema, table), sql.Identifier(column)
                )
            )


class Real:
    """Calls PostgreSQL in one transaction, which is rolled back at the end."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn
        self._read = 0

    def set_clock(self, now: float) -> None:
        self._conn.execute("select set_config('simulation.now', %s, true)", (f"{now:.6f}",))

    def rows(self, statement: Any, parameters: Sequence[Any] = ()) -> list[Any]:
        cursor = self._conn.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def answer(self, statement: Any, parameters: Sequence[Any]) -> Any:
        """Return the only value of the only row."""
        [row] = self.rows(statement, parameters)
        return row[0]

    def sent(self) -> list[tuple[str, Any]]:
        """Return (channel, payload) of each notification since the last call."""
        rows = self.rows("select n, channel, payload from simulation.sent where n > %s order by n", (self._read,))
        self._read = max((row.n for row in rows), default=self._read)
        return [(row.channel, json.loads(row.payload) if row.payload.startswith("{") else row.payload) for row in rows]

    def table(self, name: str) -> dict[Any, dict[str, Any]]:
        with self._conn.cursor(row_factory=dict_row) as cursor:
            return {row["id"]: row for row in cursor.execute(_TABLES[name].encode()).fetchall()}


@contextmanager
def real(conn: psycopg.Connection[Any]) -> Iterator[Real]:
    with conn.transaction(force_rollback=True):
        yield Real(conn)
