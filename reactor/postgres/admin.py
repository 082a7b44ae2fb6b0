"""The queries of the commands: list, show, retry, cancel and purge uploads, fail runs, quotas. Synchronous."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import dict_row
from psycopg.types.datetime import IntervalLoader, TimestamptzLoader

from reactor.core.errors import DatabaseForbidden, NotFound
from reactor.postgres import statements
from reactor.postgres.connection import connected
from reactor.postgres.results import accepted
from reactor.postgres.session import Session

_LISTED: LiteralString = """
     where (%(status)s::text is null or status = %(status)s) and (%(user)s::uuid is null or user_id = %(user)s)
     order by created_at desc, id
     limit %(limit)s
"""

_UPLOADS: LiteralString = f"""
    select id, user_id, status, retry_count, max_retries, bucket, object_path, byte_size, next_retry_at, error_code,
           created_at
      from public.upload_queue {_LISTED}
"""

_UPLOAD: LiteralString = """
    select q.*, split_part(q.traceparent, '-', 2) as trace_id, s.storage_status
      from public.upload_queue as q left join public.sources as s on s.id = q.source_id
     where q.id = %s
"""

_RUNS: LiteralString = f"""
    select id, user_id, source_id, status, started_at, heartbeat_at, timeout_at, completed_at, error_code
      from public.interpretation_runs {_LISTED}
"""

_RUN: LiteralString = """
    select r.*, split_part(r.traceparent, '-', 2) as trace_id from public.interpretation_runs as r where r.id = %s
"""

_DUE: LiteralString = """
    select count(*) filter (where q.status = 'failed' and q.next_retry_at <= now()
                              and q.retry_count < q.max_retries) as uploads_due,
           count(*) filter (where q.status = 'uploading'
                              and coalesce(q.lease_expires_at, '-infinity') <= now()) as leases_expired,
           count(*) filter (where q.status = 'failed' and q.next_retry_at <= now()
                              and q.retry_count >= q.max_retries) as uploads_exhausted,
           (select count(*) from public.interpretation_runs as r
             where r.status = 'running'
               and reactor.deadline(r.timeout_at, r.heartbeat_at, coalesce(r.heartbeat_timeout, %s)) <= now()
           ) as runs_stale,
           (select count(*) from public.sources as s
             where s.storage_status = 'pending' and s.pending_since < now() - interval '1 day'
               and not exists (select from public.upload_queue as q
                                where q.source_id = s.id and q.status in ('failed', 'uploading'))
           ) as reservations_leaked
      from public.upload_queue as q
"""

Row = dict[str, Any]

LIVE_SUMMARY_CAP = 10_000
"""reactor.live_summary() counts up to this number, and reports a larger number as this number plus 1."""

FULLEST_USERS = 20
"""Maximum number of users that `reactor status --json` shows."""


class Inspector:
    """Runs the queries of one command on one connection."""

    def __init__(self, conn: Session) -> None:
        self._conn = conn

    def status(self, heartbeat_timeout_s: float) -> Row:
        """Return reactor.status()."""
        return dict(self._value(statements.STATUS, (timedelta(seconds=heartbeat_timeout_s),)))

    def live_summary(self, heartbeat_timeout_s: float) -> Row:
        """Return reactor.live_summary(); its cost does not depend on the length of the queue."""
        return dict(self._value(statements.LIVE_SUMMARY, (timedelta(seconds=heartbeat_timeout_s), LIVE_SUMMARY_CAP)))

    def due(self, heartbeat_timeout_s: float) -> Row:
        """Return the number of rows of each kind that a reconciliation would handle now."""
        return self._all(_DUE, (timedelta(seconds=heartbeat_timeout_s),))[0]

    def uploads(self, *, status: str | None, user: UUID | None, limit: int) -> list[Row]:
        """List uploads, the newest first."""
        return self._all(_UPLOADS, {"status": status, "user": user, "limit": limit})

    def upload(self, upload_id: UUID) -> Row:
        """Return one upload with all columns. Raises NotFound."""
        return self._found(_UPLOAD, "upload", upload_id)

    def runs(self, *, status: str | None, user: UUID | None, limit: int) -> list[Row]:
        """List runs, the newest first."""
        return self._all(_RUNS, {"status": status, "user": user, "limit": limit})

    def run(self, run_id: UUID) -> Row:
        """Return one run with all columns. Raises NotFound."""
        return self._found(_RUN, "run", run_id)

    def requeue(self, ids: Sequence[UUID]) -> list[Row]:
        """Make dead, cancelled or waiting uploads due now; return each id and code: None or a quota's refusal."""
        return self._all("select id, code from reactor.requeue_uploads(%s)", (list(ids),))

    def cancel(self, ids: Sequence[UUID]) -> list[UUID]:
        """Cancel uploads; return the ids of those that were cancelled."""
        return [row["id"] for row in self._all("select id from reactor.cancel_uploads(%s) as id", (list(ids),))]

    def purge(self, ids: Sequence[UUID]) -> list[Row]:
        """Delete the rows of dead or cancelled uploads; return their id, spool and temp_file_path."""
        return self._all("select id, spool, temp_file_path from reactor.purge_uploads(%s)", (list(ids),))

    def fail_runs(self, ids: Sequence[UUID], message: str) -> list[UUID]:
        """Fail running or pending runs; return the ids of those that were failed."""
        return [row["id"] for row in self._all("select id from reactor.fail_runs(%s, %s) as id", (list(ids), message))]

    def usage(self, user: UUID) -> Row:
        """Return a user's limits and usage. A refusal of get_usage raises its exception."""
        return self._answer("select public.get_usage(%s) as answer", (user,))

    def set_plan(self, user: UUID, plan: str) -> Row:
        """Set a user's plan and return their usage. Raises InvalidArgument if the plan doesn't exist."""
        return self._answer("select public.set_plan(%s, %s) as answer", (user, plan))

    def recalculate(self, user: UUID) -> Row:
        """Recalculate a user's usage and return it; `changed` says whether the stored figures were wrong."""
        return self._answer("select public.recalculate_usage(%s) as answer", (user,))

    def recalculate_all(self) -> int:
        """Recalculate every user's usage, 200 users per transaction; return the number of users with wrong figures."""
        changed, last = 0, None
        while rows := self._all("select last_user, changed from reactor.recount_users(%s::uuid, %s)", (last, 200)):
            changed, last = changed + rows[0]["changed"], rows[0]["last_user"]
        return changed

    def fullest_users(self) -> list[Row]:
        """Return the usage of the users closest to a limit."""
        return list(self._value(statements.FULLEST_USERS, (FULLEST_USERS,)))

    def _answer(self, statement: LiteralString, parameters: Sequence[Any]) -> Row:
        return {name: value for name, value in accepted(self._value(statement, parameters)).items() if name != "ok"}

    def _all(self, statement: LiteralString, parameters: Any) -> list[Row]:
        return self._conn.run(statement, parameters).fetchall()

    def _value(self, statement: LiteralString, parameters: Sequence[Any]) -> Any:
        ((value,),) = (row.values() for row in self._all(statement, parameters))
        return value

    def _found(self, statement: LiteralString, kind: str, row_id: UUID) -> Row:
        for row in self._all(statement, (row_id,)):
            return row
        raise NotFound(f"there is no {kind} {row_id}; a stored upload has no row any more, its source has the address")


class _LenientLoader(Loader):
    """Loads a time that Python can't represent, such as infinity, as text: one such value must not fail a list."""

    def load(self, data: Buffer) -> Any:
        try:
            return super().load(data)  # type: ignore[safe-super]  # of the other base, see `inspecting`
        except (psycopg.DataError, OverflowError):
            return bytes(data).decode()


@contextmanager
def inspecting(conninfo: str) -> Iterator[Inspector]:
    """Open a connection for one command. Raises a DatabaseFailure: DatabaseForbidden if it is not migrated."""
    with connected(conninfo, application_name="reactor-cli") as conn:
        conn.row_factory = dict_row
        for name, loader in (("timestamptz", TimestamptzLoader), ("interval", IntervalLoader)):
            conn.adapters.register_loader(name, type(f"Lenient{loader.__name__}", (_LenientLoader, loader), {}))
        try:
            yield Inspector(conn)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName) as e:
            raise DatabaseForbidden("the database isn't migrated: run `reactor migrate`") from e
