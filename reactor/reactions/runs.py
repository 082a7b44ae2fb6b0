"""Stale runs: fail each interpretation whose deadline has passed.

The wheel has one timer per run, at the run's deadline. When timers fire, one statement checks their runs: it fails the
stale ones and returns the deadlines of the others. Most heartbeats send no notification, so a timer may fire
at an old deadline.
"""

from collections.abc import Sequence

from reactor.core.events import Emit, RunExpired
from reactor.core.model import Due, Signal
from reactor.core.trace_context import context_of
from reactor.postgres.notification import Hint
from reactor.postgres.runs import Runs
from reactor.reactions.base import DirectReaction, Sweep

_SWEEP_LIMIT = 200_000


class StaleRuns(DirectReaction):
    """Fails stale runs."""

    name = "runs"
    channel = "reactor_runs"

    def __init__(self, runs: Runs, *, heartbeat_timeout_s: float, emit: Emit) -> None:
        self._runs = runs
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._emit = emit

    def due_at(self, hint: Hint) -> float | None:
        due = [] if hint.due_ms is None else [hint.due_ms / 1000]
        if hint.heartbeat_ms is not None:
            due.append(hint.heartbeat_ms / 1000 + self._heartbeat_timeout_s)
        return min(due, default=None)

    async def act(self, signals: Sequence[Signal]) -> Sequence[Due]:
        signal_of = {signal.row_id: signal for signal in signals}
        later = []
        for expiry in await self._runs.expire(list(signal_of)):
            if expiry.due_at is not None:
                later.append(Due(signal_of[expiry.id], expiry.due_at))
            else:
                self._emit(
                    RunExpired(
                        run_id=expiry.id,
                        code=expiry.code or "",
                        late_s=expiry.late_s or 0.0,
                        context=context_of(expiry.traceparent, expiry.id),
                        failed_at=expiry.failed_at or 0.0,
                        user_id=expiry.user_id,
                    )
                )
        return later

    async def sweep(self, horizon_s: float) -> Sweep:
        rows = await self._runs.sweep(horizon_s, _SWEEP_LIMIT)
        return Sweep(
            rows=((Due(Signal(self.name, row_id.int, tenant), due), changed) for row_id, tenant, due, changed in rows),
            complete=len(rows) < _SWEEP_LIMIT,
        )
