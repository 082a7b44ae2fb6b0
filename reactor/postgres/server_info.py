"""The queries of `reactor doctor`: identity, privileges, notifications, clock. They block and write nothing.

Each query is one statement in autocommit, so that it works through every kind of pooler: statement pooling refuses
transactions, and with transaction pooling, a `set` would also apply to other clients. So `statement_timeout` can't be
set, and the caller must limit the time of each query.
"""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from time import monotonic, time
from typing import Any, LiteralString

from attrs import frozen
from psycopg import sql
from psycopg.rows import namedtuple_row

from reactor.postgres import statements
from reactor.postgres.refusals import RefusedRun, forbidden_statuses, refused_runs
from reactor.postgres.session import connect
from reactor.postgres.sqlstate import CALL_ERRORS, database_failure

_IDENTITY: LiteralString = """
    select current_user as role, current_database() as database, pg_postmaster_start_time() as started_at,
           pg_is_in_recovery() as is_standby, r.rolsuper as is_superuser, r.rolbypassrls as bypasses_rls,
           pg_backend_pid() <> %s as is_pooled
      from pg_roles as r
     where r.rolname = current_user
"""

_UNPROTECTED_TABLES: LiteralString = """
    select t.name, coalesce(c.relrowsecurity, false) as is_enabled
      from (select unnest(array['public.sources', 'public.interpretation_runs', 'public.upload_queue',
                                'public.storage_usage', 'public.quota_plans']) as name
            union
            select format('%I.%I', n.nspname, o.relname)
              from pg_class as o join pg_namespace as n on n.oid = o.relnamespace
             where n.nspname = 'reactor' and o.relkind in ('r', 'p')) as t
      left join pg_class as c on c.oid = to_regclass(t.name)
     where (c.relrowsecurity and c.relforcerowsecurity) is not true
     order by t.name
"""

_BUCKETS: LiteralString = """
    select bucket, count(*) over () as buckets
      from public.upload_queue
     group by bucket
     order by count(*) desc, bucket
     limit %s
"""


@frozen(kw_only=True)
class ServerIdentity:
    """The server and the role of a connection."""

    role: str
    database: str
    started_at: datetime
    is_standby: bool
    is_superuser: bool
    bypasses_rls: bool
    is_pooled: bool
    """True behind a transaction or statement pooler: the process of the server has changed since connecting."""


class ServerProbe:
    """Runs the doctor's queries on one connection. Methods raise a DatabaseFailure, in one line without secrets."""

    def __init__(self, conninfo: str) -> None:
        """Connect."""
        try:
            self._conn = connect(conninfo, application_name="reactor-doctor")
        except CALL_ERRORS as error:
            raise database_failure(error) from error
        self._conn.prepare_threshold = None
        info = self._conn.info
        self.address = f"{info.host}:{info.port}"
        self.version_number = info.server_version
        """The version as a number: 180004 for 18.4."""

    def close(self) -> None:
        self._conn.close()

    def identity(self) -> ServerIdentity:
        """Return the server and the role of this connection."""
        (row,) = self._execute(_IDENTITY, (self._conn.info.backend_pid,))
        return ServerIdentity(**row._asdict())

    def missing_privileges(self) -> list[str]:
        """Return a line for each privilege that the reactor needs and this role lacks."""
        return [row[0] for row in self._execute(statements.MISSING_PRIVILEGES)]

    def unprotected_tables(self) -> list[tuple[str, bool]]:
        """Return (table, whether its row level security is enabled) for each table that is missing, or whose row level
        security is not both enabled and forced."""
        return [(row.name, row.is_enabled) for row in self._execute(_UNPROTECTED_TABLES)]

    def queue_usage(self) -> float:
        """Return the usage of the notification queue, 0 to 1."""
        return float(self._execute("select pg_notification_queue_usage()")[0][0])

    def clock_ahead_s(self) -> tuple[float, float]:
        """Return how far the server's clock is ahead of this host's, and the error of the measurement, in seconds."""
        host, sent_at = time(), monotonic()
        server = self._execute("select extract(epoch from clock_timestamp())::float8")[0][0]
        uncertainty_s = (monotonic() - sent_at) / 2
        return server - (host + uncertainty_s), uncertainty_s

    def buckets(self, limit: int) -> tuple[list[str], int]:
        """Return up to `limit` buckets of queued uploads, the most used first, and the total number of buckets."""
        rows = self._execute(_BUCKETS, (limit,))
        return [row.bucket for row in rows], rows[0].buckets if rows else 0

    def forbidden_statuses(self) -> list[str]:
        """Return a sentence with its fix for each status that a constraint of the app doesn't allow."""
        with self._translated():
            return list(forbidden_statuses(self._conn))

    def refused_runs(self, heartbeat_timeout_s: float, limit: int) -> list[RefusedRun]:
        """Return overdue runs that the database refuses to fail, of the first `limit` overdue runs. Changes nothing."""
        with self._translated():
            return refused_runs(self._conn, heartbeat_timeout_s, limit)

    def notify(self, channel: str) -> None:
        self._execute("select pg_notify(%s, '')", (channel,))

    def receives_from(self, sender: "ServerProbe", *, timeout_s: float) -> bool:
        """Return whether a notification that `sender` sends arrives on this connection within `timeout_s`."""
        channel = f"reactor_doctor_{secrets.token_hex(8)}"
        self._execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        sender.notify(channel)
        with self._translated(), closing(self._conn.notifies(timeout=timeout_s)) as notifications:
            received = any(each.channel == channel for each in notifications)
        self._execute(sql.SQL("unlisten {}").format(sql.Identifier(channel)))
        return received

    def _execute(self, statement: LiteralString | sql.Composed, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._translated():
            cursor = self._conn.cursor(row_factory=namedtuple_row).execute(statement, parameters or None, binary=True)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except CALL_ERRORS as error:
            raise database_failure(error) from error
