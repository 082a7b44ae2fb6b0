"""Sweep and rescue of uploads. A rescue releases uploads with expired leases and marks exhausted ones as dead."""

from collections import Counter
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from reactor.core.errors import DatabaseFailure
from reactor.core.events import DatabaseLost, Emit, Rescued, UploadDied
from reactor.core.model import Due, Signal, Verdict
from reactor.core.trace_context import TraceContext
from reactor.postgres.statement_parts import concerns_rows
from reactor.postgres.upload_answers import Refused
from reactor.postgres.upload_queue import Rescue, UploadQueue
from reactor.reactions.base import Sweep

_SWEEP_LIMIT: Final = 50_000
_SWEEP_PER_TENANT: Final = 5_000
_FIRST_SWEEP_SHARE: Final = 10
"""The limits of the first sweep are divided by this, so that work on a large backlog begins sooner."""

_RESCUE_BATCH: Final = 500


class UploadBacklog:
    """Sweeps and rescues upload_queue. Its methods raise DatabaseUnavailable."""

    def __init__(self, queue: UploadQueue, *, reaction_name: str, emit: Emit) -> None:
        self._queue = queue
        self._reaction_name = reaction_name
        self._emit = emit
        self._has_swept = False

    async def sweep(self, horizon_s: float) -> Sweep:
        """List the uploads that are due within the horizon, up to a limit for each tenant and a limit for all."""
        share = 1 if self._has_swept else _FIRST_SWEEP_SHARE
        per_tenant, limit = _SWEEP_PER_TENANT // share, _SWEEP_LIMIT // share
        rows = await self._queue.sweep(horizon_s, per_tenant, limit)
        self._has_swept = True
        most_of_a_tenant = max(Counter(tenant for _, tenant, _, _ in rows).values(), default=0)
        name = self._reaction_name
        return Sweep(
            rows=((Due(Signal(name, row_id.int, tenant), due), changed) for row_id, tenant, due, changed in rows),
            complete=most_of_a_tenant < per_tenant and len(rows) < limit,
        )

    async def rescue(self) -> Sequence[TraceContext]:
        """Release uploads with expired leases, mark exhausted uploads as dead; return the trace contexts of all.

        If the database refuses, the rest is left to the claims that follow the sweep: they find the refused rows.
        """
        rescued: list[TraceContext] = []
        while True:
            try:
                batch = await self._queue.rescue(_RESCUE_BATCH)
            except DatabaseFailure as error:
                if not concerns_rows(error):
                    raise
                self._emit(DatabaseLost(doing="rescue uploads", reason=str(error)))
                return rescued
            rescued += self._emit_rescued(batch)
            if len(batch) < _RESCUE_BATCH:
                return rescued

    async def bury(self, exhausted: Sequence[UUID]) -> tuple[set[UUID], list[Refused]]:
        """Mark these uploads as dead: they have used up their retries. Return the ids of those, and the refused ones.

        Never raises: nothing is buried if the database fails.
        """
        try:
            buried, refused = await self._queue.bury(exhausted)
        except DatabaseFailure as error:
            self._emit(DatabaseLost(doing="bury uploads", reason=str(error)))
            return set(), []
        self._emit_rescued(buried)
        return {rescue.id for rescue in buried}, refused

    def _emit_rescued(self, rescued: Sequence[Rescue]) -> Sequence[TraceContext]:
        events = [rescue.event() for rescue in rescued]
        for event in events:
            self._emit(event)
            if event.verdict is Verdict.DEAD:
                self._emit(UploadDied(event.trail.upload_id, event.rescued_at, event.code, "its retries are used up"))
        if events:
            counts = Counter(event.verdict for event in events)
            self._emit(Rescued(retried=counts[Verdict.RETRY], buried=counts[Verdict.DEAD]))
        return [event.trail.context for event in events]
