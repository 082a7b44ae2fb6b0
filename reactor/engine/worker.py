"""Takes ready signals in batches and claims their rows.

Batches need no timer and no setting. Rows that become due during a claim wait, and the next claim takes all of them:
one row when the reactor is idle, hundreds of rows under load.

The window limits how many attempts are in flight: `concurrency`, plus four times the number of attempts that end during
one claim, at most three batches. So slow uploads are claimed one by one, and other reactors can claim the remaining
rows. Quick uploads are claimed by hundreds, when there is room for half a batch.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

from anyio import create_task_group
from anyio.lowlevel import cancel_shielded_checkpoint

from reactor.core.errors import DatabaseFailure
from reactor.core.events import DatabaseLost, Emit
from reactor.core.model import Due, Signal
from reactor.engine.completer import BATCH, Completer
from reactor.engine.leases import Leases
from reactor.engine.pauses import Pauses
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.engine.set_aside import SetAside
from reactor.engine.splitting import in_parts
from reactor.postgres.call_health import CallHealth
from reactor.reactions.base import A, AttemptReaction, DirectReaction, Reaction
from reactor.runtime.clock import Clock

R = TypeVar("R", bound=Reaction)

_MOST_CLAIMED = 5 * BATCH
"""Maximum number of claimed, unsettled rows: one batch being claimed, one being settled, three in flight."""

_LOW = 5_000
"""With fewer ready signals than this, the worker requests a sweep, so that the ready queue doesn't become empty."""


class Worker(ABC, Generic[R]):
    """Claims the rows of one reaction's ready signals. `DirectWorker` and `AttemptWorker` implement the claim."""

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
        health: CallHealth,
    ) -> None:
        """The worker sets `idle` when it has no ready, claimed or unsettled rows."""
        self.reaction = reaction
        self.ready = ready
        self._schedule = schedule
        self._requests = requests
        self._clock = clock
        self._emit = emit
        self._idle = idle
        self._pauses = Pauses(clock, health)
        self.set_aside = SetAside(reaction.name, clock=clock, emit=emit)
        self._claiming = 0
        self._is_closing = False
        self.ended = asyncio.Event()
        """Set when the worker was closed and all its attempts are settled."""

    @property
    def outstanding(self) -> int:
        """Number of rows that are being claimed, claimed, or settled and not cleaned up."""
        return self._claiming

    @property
    def spent(self) -> int:
        """Number of attempts settled since the start, without the deferred ones."""
        return 0

    @property
    def is_idle(self) -> bool:
        """Whether no row is ready or outstanding."""
        return not self.outstanding and not len(self.ready.queue)

    @property
    def is_low(self) -> bool:
        """Whether fewer than _LOW signals are ready."""
        return len(self.ready.queue) < _LOW

    def is_claimed(self, signal: Signal) -> bool:  # noqa: ARG002  # AttemptWorker uses it
        """Return whether this reactor has claimed the row."""
        return False

    def track_released(self) -> AbstractContextManager[Container[Signal]]:
        """Yield a set that collects the signals released during the block; see `Completer.track_released`."""
        return nullcontext(())

    async def run(self) -> None:
        """Claim rows until closed."""
        await self._claim_until_closed()
        self.ended.set()
        self._idle.set()

    def close(self) -> None:
        """Stop claiming rows."""
        self._is_closing = True
        self.ready.changed.set()
        self._pauses.end()

    def abort(self) -> None:
        """Abandon the attempts that have not ended."""

    async def _claim_until_closed(self) -> None:
        try:
            await self.reaction.prepare()
        except DatabaseFailure as error:
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
            await self._claim_parts(batch)
            self._claiming = 0
            await cancel_shielded_checkpoint()  # let the claimed attempts begin before the next claim

    async def _claim_parts(self, batch: Sequence[Signal]) -> None:
        """Claim these rows, without those that are set aside. Set aside those that the database refuses."""
        batch, later = self.set_aside.divide(batch) if self.set_aside.rows else (batch, [])
        undone = await in_parts(batch, self._claim_part)
        later += self.set_aside.add(undone.refused) if undone.refused else ()
        if later:
            self._release_tenants([due.signal for due in later])
            self._schedule.arm(later)
        if undone.error is not None:
            self._emit(DatabaseLost(doing=f"claim {self.reaction.name}", reason=str(undone.error)))
            self._release_tenants(undone.failed)
            await self._pauses.pause()  # claims of other rows would fail too
            self._schedule.arm([Due(signal, self._clock.database_now()) for signal in undone.failed])

    async def _claim_part(self, part: Sequence[Signal]) -> None:
        await self._claim(part)
        if self._pauses.has_paused:
            self._pauses.reset()
        if self.set_aside.rows:
            self.set_aside.accept(part)

    def request_refill(self) -> None:
        """Request a sweep if rows were left in the database, or if rows were yielded and the ready queue isn't full."""
        if self.ready.is_incomplete or (self.ready.first_yielded is not None and not self.ready.is_full):
            self._requests.request_refill()

    def _take(self) -> list[Signal]:
        """Remove the signals to claim now from the ready queue, and return them."""
        return self.ready.queue.take(BATCH)

    @abstractmethod
    async def _claim(self, batch: Sequence[Signal]) -> None:
        """Claim these rows. Raises a DatabaseFailure."""

    def _release_tenants(self, signals: Sequence[Signal]) -> None:
        for signal in signals:
            self.ready.queue.release(signal.tenant)


class DirectWorker(Worker[DirectReaction]):
    """The worker of a `DirectReaction`, whose claim does the whole work."""

    async def _claim(self, batch: Sequence[Signal]) -> None:
        self._schedule.arm(await self.reaction.act(batch))
        self._release_tenants(batch)


class AttemptWorker(Worker[AttemptReaction[A]]):
    """The worker of an `AttemptReaction`: claims rows and submits them to the executor. Its completer settles them."""

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
        health: CallHealth,
        concurrency: int,
        per_tenant: int,
        lease_s: float,
    ) -> None:
        """At most `concurrency` attempts are executed concurrently, at most `per_tenant` of them for one tenant."""
        super().__init__(reaction, ready, schedule, requests, clock=clock, emit=emit, idle=idle, health=health)
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
        """Claim rows until closed, then return when all attempts are settled and cleaned up."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._completer.collect_outcomes)
            tasks.start_soon(self._completer.settle_outcomes)
            tasks.start_soon(self._completer.settle_busy)
            tasks.start_soon(self._completer.clean_up_settled)
            tasks.start_soon(self._leases.extend_leases)
            tasks.start_soon(self._leases.end_late_attempts)
            await self._claim_until_closed()
            await self._completer.until_empty()
            tasks.cancel_scope.cancel()
        self.ended.set()
        self._idle.set()

    def close(self) -> None:
        """Claim no more rows, and hand back the attempts that have not begun. Running attempts continue."""
        super().close()
        self._completer.hand_back(self.reaction.executor.drain())

    def abort(self) -> None:
        for attempt in list(self._completer.claimed.values()):
            self._completer.cut_short(attempt)

    # window

    def _take(self) -> list[Signal]:
        """Take signals, and drop those of rows that are claimed here: another reactor's rescue may have sent them."""
        claimed = self._completer.claimed
        while (room := self._room()) and (taken := self.ready.queue.take(room)):
            if claimed.keys().isdisjoint(taken):
                return taken
            self._completer.release_tenants(signal for signal in taken if signal in claimed)
            if batch := [signal for signal in taken if signal not in claimed]:
                return batch
        return []

    def _room(self) -> int:
        """Return the number of rows to claim now, and set the cap of each tenant to its share of the window."""
        window = min(3 * BATCH, self._concurrency + int(4 * self._ended_during_a_claim()))
        # Invariant: if per_tenant < concurrency, no tenant can fill the whole window
        self.ready.queue.per_tenant = math.ceil(window * min(1.0, self._per_tenant / self._concurrency))
        room = max(0, min(BATCH, window - self._completer.in_flight, _MOST_CLAIMED - len(self._completer.claimed)))
        # enough attempts wait for the executor: don't claim until there is room for half a batch
        return 0 if self.reaction.executor.waiting >= self._concurrency and room < min(window, BATCH) / 2 else room

    def _ended_during_a_claim(self) -> float:
        """Estimate the number of attempts that end during one claim, from those ended since the last claim was sent."""
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
        if self._is_closing:
            self._completer.hand_back(result.attempts)
        else:
            self._completer.dispatch(result.attempts)
        if len(ours) < len(batch):
            # rows that need no attempt any more are counted as ended attempts, so that the window grows
            self._done_elsewhere += len(batch) - len(ours) - len(result.later)
            self._completer.release_tenants(signal for signal in batch if signal not in ours)
