"""Takes ready signals in batches and claims their rows.

Batches are natural. While a claim is on its way to the database, rows that become due wait; the next claim takes all
of them. One row at a time when idle, hundreds in one round trip under load, and no timer or setting in between.

How much is claimed follows the pace of the work: as many rows as there are free places, and four times as many as end
while one claim is on its way. Slow uploads are claimed one by one as places become free, so that other reactors may
take the rest. Quick ones are claimed by hundreds, once there is room for half a batch, up to three batches ahead.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from anyio import create_task_group
from anyio.lowlevel import cancel_shielded_checkpoint

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import DatabaseLost, Emit
from reactor.core.model import Due, Signal
from reactor.engine.completer import BATCH, Completer
from reactor.engine.leases import Leases
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.reactions.base import A, AttemptReaction, DirectReaction, Reaction
from reactor.runtime.clock import Clock

R = TypeVar("R", bound=Reaction)

_MOST_CLAIMED = 5 * BATCH
"""Most rows claimed and not settled: one batch on its way from the database, one to it, three being worked on."""

_LOW = 5_000
"""With fewer ready signals than this, a sweep fetches more before these are used up."""

_PAUSE_S = 0.5
"""How long claims pause after the database failed."""


class Worker(ABC, Generic[R]):
    """Claims the ready signals of one reaction. `DirectWorker` and `AttemptWorker` say what a claim is."""

    def __init__(
        self,
        reaction: R,
        ready: ReadyQueue,
        schedule: Schedule,
        requests: ReconcileRequests,
        *,
        clock: Clock,
        emit: Emit,
        idle: asyncio.Event,
    ) -> None:
        """`idle` is set whenever this worker has nothing ready, claimed or unsettled."""
        self.reaction = reaction
        self.ready = ready
        self._schedule = schedule
        self._requests = requests
        self._clock = clock
        self._emit = emit
        self._idle = idle
        self._claiming = 0
        self._is_closing = False
        self.ended = asyncio.Event()
        """Set once the worker was closed and everything is settled."""

    @property
    def outstanding(self) -> int:
        """Rows that are being claimed, claimed, or settled and not cleaned up."""
        return self._claiming

    @property
    def spent(self) -> int:
        """Attempts that were settled and counted since the start."""
        return 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is ready or outstanding."""
        return not self.outstanding and not len(self.ready.queue)

    @property
    def is_low(self) -> bool:
        """Whether few rows are ready."""
        return len(self.ready.queue) < _LOW

    def is_claimed(self, signal: Signal) -> bool:  # noqa: ARG002  # AttemptWorker's rows are
        """Return whether this reactor holds the row."""
        return False

    def track_released(self) -> AbstractContextManager[Container[Signal]]:
        """Yield the signals that are released until the block ends: what was read of them meanwhile is out of date."""
        return nullcontext(())

    async def run(self) -> None:
        """Work until closed."""
        await self._claim_until_closed()
        self.ended.set()
        self._idle.set()

    def close(self) -> None:
        """Claim no more."""
        self._is_closing = True
        self.ready.changed.set()

    def abort(self) -> None:
        """Interrupt what is being worked on; it is handed back."""

    async def _claim_until_closed(self) -> None:
        try:
            await self.reaction.prepare()
        except DatabaseUnavailable as error:
            self._emit(DatabaseLost(doing=f"prepare {self.reaction.name}", reason=str(error)))
        ready = self.ready
        while not self._is_closing:
            batch = self._take()
            if self.is_low and (batch or not len(ready.queue)):
                self.request_refill()
            if not batch:
                if self.is_idle:
                    self._idle.set()
                await ready.changed.wait()
                ready.changed.clear()
                continue
            self._claiming = len(batch)
            try:
                await self._claim(batch)
            except DatabaseUnavailable as error:
                self._emit(DatabaseLost(doing=f"claim {self.reaction.name}", reason=str(error)))
                self._release_tenants(batch)
                await self._clock.sleep(_PAUSE_S)  # other ready rows would fare no better
                self._schedule.arm([Due(signal, self._clock.database_now()) for signal in batch])
            self._claiming = 0
            await cancel_shielded_checkpoint()  # let what was claimed begin first

    def request_refill(self) -> None:
        """Request a sweep, if the last one has left rows in the database, or to other reactors while few are ready."""
        if self.ready.is_incomplete or (self.ready.first_yielded is not None and not self.ready.is_full):
            self._requests.request_refill()

    def _take(self) -> list[Signal]:
        """Return the signals to claim now, removed from the ready queue."""
        return self.ready.queue.take(BATCH)

    @abstractmethod
    async def _claim(self, batch: Sequence[Signal]) -> None:
        """Claim these rows. Raises DatabaseUnavailable."""

    def _release_tenants(self, signals: Sequence[Signal]) -> None:
        for signal in signals:
            self.ready.queue.release(signal.tenant)


class DirectWorker(Worker[DirectReaction]):
    """Works for a `DirectReaction`: the claim is the whole work."""

    async def _claim(self, batch: Sequence[Signal]) -> None:
        self._schedule.arm(await self.reaction.act(batch))
        self._release_tenants(batch)


class AttemptWorker(Worker[AttemptReaction[A]]):
    """Works for an `AttemptReaction`: claims rows, hands them to the executor, and has them settled."""

    def __init__(
        self,
        reaction: AttemptReaction[A],
        ready: ReadyQueue,
        schedule: Schedule,
        requests: ReconcileRequests,
        *,
        clock: Clock,
        emit: Emit,
        idle: asyncio.Event,
        concurrency: int,
        per_tenant: int,
        lease_s: float,
    ) -> None:
        """`concurrency` attempts at once, `per_tenant` of them for one tenant."""
        super().__init__(reaction, ready, schedule, requests, clock=clock, emit=emit, idle=idle)
        self._completer = Completer(reaction, ready, schedule, clock=clock, emit=emit)
        self._leases = Leases(reaction, self._completer, clock=clock, emit=emit, lease_s=lease_s)
        self._concurrency = concurrency
        self._per_tenant = per_tenant
        self._done_elsewhere = 0
        self._ended_before = 0
        self._claim_sent_at = 0.0
        self._claim_took_s = 0.0

    @property
    def outstanding(self) -> int:
        return self._claiming + self._completer.outstanding

    @property
    def spent(self) -> int:
        return self._completer.spent

    def is_claimed(self, signal: Signal) -> bool:
        return signal in self._completer.claimed

    def track_released(self) -> AbstractContextManager[Container[Signal]]:
        return self._completer.track_released()

    async def run(self) -> None:
        """Work until closed and everything is settled."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._completer.collect_outcomes)
            tasks.start_soon(self._completer.settle_outcomes)
            tasks.start_soon(self._completer.clean_up_settled)
            tasks.start_soon(self._leases.extend_leases)
            tasks.start_soon(self._leases.end_late_attempts)
            await self._claim_until_closed()
            await self._completer.until_empty()
            tasks.cancel_scope.cancel()
        self.ended.set()
        self._idle.set()

    def close(self) -> None:
        """Claim no more, hand back what has not begun; what is being acted on may finish."""
        super().close()
        self._completer.hand_back(self.reaction.executor.drain())

    def abort(self) -> None:
        for attempt in list(self._completer.claimed.values()):
            self._completer.cut_short(attempt)

    # window

    def _take(self) -> list[Signal]:
        """Take signals of rows that are not claimed here; a lease that has ended under a running attempt is."""
        claimed = self._completer.claimed
        while (room := self._room()) and (taken := self.ready.queue.take(room)):
            if claimed.keys().isdisjoint(taken):
                return taken
            self._completer.release_tenants(signal for signal in taken if signal in claimed)
            if batch := [signal for signal in taken if signal not in claimed]:
                return batch
        return []

    def _room(self) -> int:
        """Return how many rows to claim now, and cap each tenant at its share of that window."""
        window = min(3 * BATCH, self._concurrency + int(4 * self._ended_during_a_claim()))
        # Invariant: one tenant never holds the whole window while it is capped below the concurrency
        self.ready.queue.per_tenant = math.ceil(window * min(1.0, self._per_tenant / self._concurrency))
        room = max(0, min(BATCH, window - self._completer.in_flight, _MOST_CLAIMED - len(self._completer.claimed)))
        # enough waits for the executor: a round trip for a few more rows would cost as much as one for many
        return 0 if self.reaction.executor.waiting >= self._concurrency and room < min(window, BATCH) / 2 else room

    def _ended_during_a_claim(self) -> float:
        """Return how many attempts end while a claim is on its way, from those that ended since the last was sent."""
        ended = self._completer.ended_count - self._ended_before + self._done_elsewhere
        since_s = self._clock.now() - self._claim_sent_at
        return ended * (self._claim_took_s / since_s if since_s > self._claim_took_s else 1.0)

    # claim and dispatch

    async def _claim(self, batch: Sequence[Signal]) -> None:
        self._ended_before, self._done_elsewhere = self._completer.ended_count, 0
        self._claim_sent_at = self._clock.now()
        try:
            result = await self.reaction.claim(batch)
        finally:
            self._claim_took_s = self._clock.now() - self._claim_sent_at
        self._schedule.arm(result.later)
        ours = {attempt.signal: attempt for attempt in result.attempts}
        self._completer.claimed |= ours
        self._completer.in_flight += len(ours)
        self._dispatch(result.attempts)
        if len(ours) < len(batch):
            # rows that another reactor has finished count as progress: the next claim may be larger
            self._done_elsewhere += len(batch) - len(ours) - len(result.later)
            self._completer.release_tenants(signal for signal in batch if signal not in ours)

    def _dispatch(self, attempts: Sequence[A]) -> None:
        """Let the executor begin those that may begin; hand the others back."""
        admitted = () if self._is_closing else self.reaction.admit(attempts)
        if admitted:
            self.reaction.executor.submit(admitted)
        self._completer.hand_back(attempts[len(admitted) :])
