"""Typed calls for the running rows of interpretation_runs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.postgres.upload_queue import SweptRow


class Expiry(NamedTuple):
    """One checked run: failed with `code`, or still running. Times are seconds since 1970 by the database's clock."""

    id: UUID
    due_at: float | None
    """When to check the run again; None if it was failed."""

    code: str | None
    late_s: float | None
    """Seconds from the deadline until the run was failed."""

    traceparent: str | None
    failed_at: float | None
    user_id: UUID | None


class Runs:
    """Fails stale runs, and lists runs by deadline."""

    def __init__(self, database: QueryRunner, *, heartbeat_timeout_s: float) -> None:
        """`heartbeat_timeout_s` is the heartbeat timeout of runs whose row has none."""
        self._database = database
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)

    async def expire(self, ids: Sequence[UUID]) -> list[Expiry]:
        """Fail the runs whose deadline has passed; return the failed runs, and running ones that have a deadline."""
        rows = await self._database.call(statements.EXPIRE_RUNS, (list(ids), self._heartbeat_timeout))
        return [Expiry(*row) for row in rows]

    async def sweep(self, horizon_s: float, limit: int) -> list[SweptRow]:
        """List up to `limit` runs whose deadline passes within `horizon_s`, the earliest first."""
        arguments = (timedelta(seconds=horizon_s), self._heartbeat_timeout, limit)
        return await self._database.call(statements.SWEEP_RUNS, arguments)
