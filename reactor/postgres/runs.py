"""The running rows of interpretation_runs, as typed calls."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.postgres.upload_queue import SweptRow


class Expiry(NamedTuple):
    """One checked run: failed with `code`, or due at `due_at`. Times are database seconds since 1970."""

    id: UUID
    due_at: float | None
    """When it will be stale; None once it was failed."""

    code: str | None
    late_s: float | None
    """Seconds from its deadline until it was failed."""

    traceparent: str | None
    failed_at: float | None


class Runs:
    """The running rows of interpretation_runs."""

    def __init__(self, database: QueryRunner, *, heartbeat_timeout_s: float) -> None:
        """`heartbeat_timeout_s` is the heartbeat timeout of runs that have none of their own."""
        self._database = database
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)

    async def expire(self, ids: Sequence[UUID]) -> list[Expiry]:
        """Fail the runs whose deadline has passed; return all, with the due times of the others."""
        rows = await self._database.call(statements.EXPIRE_RUNS, (list(ids), self._heartbeat_timeout))
        return [Expiry(*row) for row in rows]

    async def sweep(self, horizon_s: float, limit: int) -> list[SweptRow]:
        """List the runs whose deadline is within the horizon, the earliest first."""
        arguments = (timedelta(seconds=horizon_s), self._heartbeat_timeout, limit)
        return await self._database.call(statements.SWEEP_RUNS, arguments)
