"""A PostgreSQL server asked about itself: who it is, what it grants, what it hears. Blocking, for commands.

Every question is one statement in autocommit, so that it works through any kind of pooler: a pooler in statement mode
refuses transactions, and one in transaction mode would hand a `set` to other clients. So nothing here bounds a
statement on the server; who asks gives up by itself. Nothing is written.
"""

from collections.abc import Sequence
from datetime import datetime
from time import monotonic, time
from typing import Any, LiteralString, NamedTuple

import psycopg
from attrs import frozen
from psycopg import sql
from psycopg.rows import namedtuple_row

from reactor.postgres import statements
from reactor.postgres.connection import connect, unavailable

_IDENTITY: LiteralString = """
    select current_user as role, current_database() as database, pg_backend_pid() as backend_pid,
           pg_is_in_recovery() as is_standby, pg_postmaster_start_time() as started_at, r.rolsuper, r.rolbypassrls
      from pg_roles as r
     where r.rolname = current_user
"""

_UNGUARDED: LiteralString = """
    select t.name, coalesce(c.relrowsecurity, false) as is_enabled, coalesce(c.relforcerowsecurity, false) as is_forced
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
class Identity:
    """Which server answered, and as whom."""

    role: str
    database: str
    started_at: datetime
    is_standby: bool
    is_superuser: bool
    bypasses_rls: bool
    is_pooled: bool
    """The server process that answers isn't the one that was promised at connect: a pooler stands between."""

    def is_same_database(self, other: "Identity") -> bool:
        return (self.database, self.started_at) == (other.database, other.started_at)


class Unguarded(NamedTuple):
    """A table of ours whose row level security isn't both on and forced; one that is missing has neither."""

    name: str
    is_enabled: bool
    is_forced: bool


class Server:
    """One connection. Each method raises DatabaseUnavailable, with one line that holds no secret."""

    def __init__(self, conninfo: str) -> None:
        """Connect."""
        try:
            self._conn = connect(conninfo, application_name="reactor-doctor")
        except psycopg.Error as error:
            raise unavailable(error) from error
        self._conn.prepare_threshold = None
        info = self._conn.info
        self.address = f"{info.host}:{info.port}"
        self.version_number = info.server_version
        """As 180004 for 18.4."""

    def close(self) -> None:
        self._conn.close()

    def identity(self) -> Identity:
        (row,) = self._all(_IDENTITY)
        return Identity(
            role=row.role,
            database=row.database,
            started_at=row.started_at,
            is_standby=row.is_standby,
            is_superuser=row.rolsuper,
            bypasses_rls=row.rolbypassrls,
            is_pooled=row.backend_pid != self._conn.info.backend_pid,
        )

    def missing(self) -> list[str]:
        """Return what this role lacks for the reactor's work, a line each."""
        return [row[0] for row in self._all(statements.MISSING_PRIVILEGES)]

    def unguarded(self) -> list[Unguarded]:
        """Return our tables whose row level security is off or not forced."""
        return [Unguarded(*row) for row in self._all(_UNGUARDED)]

    def queue_usage(self) -> float:
        """Return how full the notification queue is, 0 to 1."""
        usage: float = self._all("select pg_notification_queue_usage()")[0][0]
        return usage

    def clock_ahead_s(self) -> tuple[float, float]:
        """Return by how many seconds the server's clock is ahead of this host's, and the error of that."""
        host, sent = time(), monotonic()
        server = self._all("select extract(epoch from clock_timestamp())::float8")[0][0]
        uncertainty_s = (monotonic() - sent) / 2
        return server - (host + uncertainty_s), uncertainty_s

    def buckets(self, most: int) -> tuple[list[str], int]:
        """Return up to `most` buckets that queued uploads name, the most named first, and how many there are."""
        rows = self._all(_BUCKETS, (most,))
        return [row.bucket for row in rows], rows[0].buckets if rows else 0

    def listen(self, channel: str) -> None:
        self._run(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def unlisten(self, channel: str) -> None:
        self._run(sql.SQL("unlisten {}").format(sql.Identifier(channel)))

    def notify(self, channel: str) -> None:
        self._all("select pg_notify(%s, '')", (channel,))

    def hears(self, channel: str, *, within_s: float) -> bool:
        """Wait for a notification on the channel; False when none comes."""
        give_up = monotonic() + within_s
        try:
            while (left_s := give_up - monotonic()) > 0:
                for notification in self._conn.notifies(timeout=left_s, stop_after=1):
                    if notification.channel == channel:
                        return True
        except psycopg.Error as error:
            raise unavailable(error) from error
        return False

    def _all(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._conn.cursor(row_factory=namedtuple_row).execute(statement, parameters or None).fetchall()
        except psycopg.Error as error:
            raise unavailable(error) from error

    def _run(self, statement: sql.Composed) -> None:
        try:
            self._conn.execute(statement)
        except psycopg.Error as error:
            raise unavailable(error) from error
