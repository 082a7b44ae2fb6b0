"""One reaction's work, from ready to settled: ready → claim a batch → have each acted on → settle a batch.

Batches are natural. While a claim is on its way to the database, what becomes due meanwhile waits; when it returns,
the next claim takes all of it. Settling likewise. One row at a time when idle, hundreds to a round trip under load,
and no timer or tuning knob in between.

How much is claimed follows how fast the work goes: as many as have places free, and four times as many as come to an
end while a claim is on its way. Slow uploads are claimed one by one as places become free, and none ahead of others who
may be free; quick ones hundreds at a time, once there is room for half a batch, and up to three batches ahead.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic

from anyio import create_task_group
from anyio.lowlevel import cancel_shielded_checkpoint

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import DatabaseLost, Emit
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.engine.leases import Leases
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.reactions.base import A, Claimed, Reaction
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import Clock

BATCH = 500
"""Most rows in one claim or one settlement: a statement of some 50 ms."""

_MOST_UNSETTLED = 5 * BATCH
"""Most rows in hand: one batch on its way from the database, one to it, and three being worked on meanwhile."""

_LOW = 5_000
"""With fewer rows ready than this, more are fetched; a sweep brings them before these are worked off."""

_GATHER_S = 0.02
"""How long an outcome may wait for others to be settled with."""

_MOST_BEHIND = 4
"""How many batches may be settled and not cleaned up after, before the next has to wait."""

_PAUSE_S = 0.5
"""Before the database is asked again after it failed."""

_FORGET_AFTER_S = 600.0
"""How long after its lease an outcome is still offered to the database, whose fence decides whether it counts."""


class Worker(Generic[A]):
    """Claims, acts on and settles the rows of one reaction."""

    def __init__(
        self,
        reaction: Reaction[A],
        ready: ReadyQueue,
        schedule: Schedule,
        *,
        clock: Clock,
        emit: Emit,
        concurrency: int,
        per_tenant: int,
        lease_s: float,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_idle` is called each time that nothing is left to do: none ready, claimed or unsettled."""
        self._reaction = reaction
        self._ready = ready
        self._schedule = schedule
        self._clock = clock
        self._emit = emit
        self._concurrency = concurrency
        self._per_tenant = per_tenant
        self._executor = reaction.executor
        self._claimed: dict[Signal, A] = {}
        self._leases = Leases(
            reaction, self._claimed, cut_short=self._cut_short, clock=clock, emit=emit, lease_s=lease_s
        )
        self._in_flight = 0
        self._acting: dict[Signal, A] = {}
        self._gone: set[Signal] | None = None
        self._ended: deque[tuple[A, Outcome]] = deque()
        self._ended_lately = 0
        self._claiming = 0
        self._claim_sent = 0.0
        self._claim_s = 0.0
        self._settled_batches = asyncio.Queue[list[A]](_MOST_BEHIND)
        self._cleaning = 0
        self._closing = False
        self._settled = Wakeup()
        self._is_gathering = False
        self._begun = Wakeup()
        self._on_idle = on_idle
        self.spent = 0
        """Attempts that were settled and counted: not those handed back."""
        self.on_low: Callable[[], None] = lambda: None
        """Called when few rows are ready: a backlog in the database may be fetched from."""

    # Invariant: a signal that was claimed is in hand (waits for the executor, or is acting) or ended, and never both.

    @property
    def outstanding(self) -> int:
        """Rows that are claimed, being claimed, or not settled yet, and those that left something behind."""
        return len(self._claimed) + self._claiming + self._cleaning

    @property
    def is_idle(self) -> bool:
        return not self.outstanding and not len(self._ready.queue)

    @property
    def is_low(self) -> bool:
        """Whether few rows are ready."""
        return len(self._ready.queue) < _LOW

    def is_claimed(self, signal: Signal) -> bool:
        """Return whether the row is being worked on here: hearing of it again changes nothing."""
        return signal in self._claimed

    @contextmanager
    def track_released(self) -> Iterator[Container[Signal]]:
        """Yield the rows that are let go of until the block ends: what was read of them meanwhile is out of date."""
        self._gone = gone = set[Signal]()
        try:
            yield gone
        finally:
            self._gone = None

    async def run(self) -> None:
        """Work until closed and everything is settled."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._settle_all)
            tasks.start_soon(self._clean_up_all)
            tasks.start_soon(self._leases.extend_all)
            tasks.start_soon(self._time_out_all)
            tasks.start_soon(self._follow_progress)
            await self._prepare()
            await self._claim_all()
            await self._until_settled()
            tasks.cancel_scope.cancel()

    def close(self) -> None:
        """Claim no more, hand back what wasn't begun; what is being acted on may finish."""
        self._closing = True
        self._hand_back_waiting()
        self._ready.wakeup.set()
        self._settled.set()

    def abort(self) -> None:
        """Cut short what is still being acted on; it is handed back."""
        for attempt in list(self._claimed.values()):
            self._cut_short(attempt)

    # claim

    async def _prepare(self) -> None:
        try:
            await self._reaction.prepare()
        except DatabaseUnavailable as error:  # claims don't need it
            self._emit(DatabaseLost(doing=f"prepare {self._reaction.name}", reason=str(error)))

    async def _claim_all(self) -> None:
        while not self._closing:
            room = self._room()
            batch = self._take(room) if room else []
            if self.is_low and (batch or not len(self._ready.queue)):
                self.on_low()
            if not batch:
                self._tell_idle()
                await self._ready.wakeup.wait()
                continue
            self._ended_lately = 0
            self._claiming = len(batch)
            self._claim_sent = self._clock.now()
            await self._claim(batch)
            self._claim_s = self._clock.now() - self._claim_sent
            self._claiming = 0
            await cancel_shielded_checkpoint()  # what was begun goes first

    def _room(self) -> int:
        """Return how many to claim now, and let each tenant have its share of that and no more."""
        window = min(3 * BATCH, self._concurrency + int(4 * self._ended_in_a_claim()))
        # Invariant: one tenant never holds the whole window while it is capped below the concurrency
        self._ready.queue.per_tenant = math.ceil(window * min(1.0, self._per_tenant / self._concurrency))
        unsettled = len(self._claimed)
        room = max(0, min(BATCH, window - self._in_flight, _MOST_UNSETTLED - unsettled))
        # what waits keeps everybody busy meanwhile: a round trip for a few more would cost as much as one for many
        return 0 if self._executor.waiting >= self._concurrency and room < min(window, BATCH) / 2 else room

    def _ended_in_a_claim(self) -> float:
        """Return how many come to an end while a claim is on its way, by those that did since the last was sent."""
        since_s = self._clock.now() - self._claim_sent
        return self._ended_lately * (self._claim_s / since_s if since_s > self._claim_s else 1.0)

    def _take(self, room: int) -> list[Signal]:
        """Take what is ready. What is ours is left out, though its lease may have ended: it is being worked on here."""
        while taken := self._ready.queue.take(room):
            if self._claimed.keys().isdisjoint(taken):
                return taken
            self._release(filter(self.is_claimed, taken))
            if batch := [signal for signal in taken if not self.is_claimed(signal)]:
                return batch
        return []

    async def _claim(self, batch: Sequence[Signal]) -> None:
        try:
            claimed = await self._reaction.claim(batch)
        except DatabaseUnavailable as error:
            self._emit(DatabaseLost(doing=f"claim {self._reaction.name}", reason=str(error)))
            await self._clock.sleep(_PAUSE_S)  # what else is ready would fare no better
            claimed = Claimed(later=[Due(signal, self._clock.database_now()) for signal in batch])
        self._schedule.arm(claimed.later)
        ours = {attempt.signal: attempt for attempt in claimed.attempts}
        self._claimed |= ours
        self._in_flight += len(ours)
        self._hand_over(claimed.attempts)
        # what others have done meanwhile is as good as done here: go on to more
        self._ended_lately += len(batch) - len(ours) - len(claimed.later)
        self._leases.hold()
        if len(ours) < len(batch):
            self._release(signal for signal in batch if signal not in ours)

    # act

    def _hand_over(self, attempts: Sequence[A]) -> None:
        """Let the executor begin what may begin; the rest goes back."""
        admitted = () if self._closing else self._reaction.admit(attempts)
        if admitted:
            self._executor.submit(admitted)
        self._hand_back(attempts[len(admitted) :])

    async def _follow_progress(self) -> None:
        """Record which attempts have begun and ended. What a reaction raises here ends the reactor: no row is lost."""
        while True:
            started, ended = await self._executor.progress()
            if started:
                self._reaction.begun(started)
                self._acting |= {attempt.signal: attempt for attempt in started if not attempt.ended}
            if ended:
                for attempt in ended:
                    self._acting.pop(attempt.signal, None)
                self._end(ended, self._reaction.outcomes(ended))
            if self._reaction.is_held_up:
                self._hand_back_waiting()
            self._begun.set()

    def _hand_back_waiting(self) -> None:
        self._hand_back(self._executor.drain())

    def _hand_back(self, attempts: Sequence[A]) -> None:
        if attempts:
            self._end(attempts, [self._reaction.hand_back(attempt) for attempt in attempts])

    def _cut_short(self, attempt: A) -> None:
        """Wait for the executor's work on it no longer, unless that has just ended."""
        if self._executor.abandon(attempt):
            self._acting.pop(attempt.signal, None)
            self._end([attempt], [self._reaction.cut_short(attempt)])

    async def _time_out_all(self) -> None:
        """Cut short what takes too long; sleep while nothing is acted on."""
        while True:
            ends_at = next((attempt.deadline for attempt in self._acting.values()), math.inf)
            if ends_at == math.inf:
                await self._begun.wait()
                continue
            await self._clock.sleep(max(0.0, ends_at - self._clock.now()))
            for attempt in [a for a in self._acting.values() if a.deadline <= self._clock.now()]:
                self._cut_short(attempt)

    def _end(self, attempts: Sequence[A], outcomes: Sequence[Outcome]) -> None:
        self._in_flight -= len(attempts)
        self._ended_lately += len(attempts)
        self._release(attempt.signal for attempt in attempts)
        for attempt, outcome in zip(attempts, outcomes, strict=True):
            attempt.is_over = True
            if attempt.is_lost:
                self._give_up(attempt)
            else:
                self._ended.append((attempt, outcome))
        self._gather()
        self._ready.wakeup.set()

    def _release(self, signals: Iterable[Signal]) -> None:
        """Let as many others of their tenants be taken."""
        for tenant, count in Counter(signal.tenant for signal in signals).items():
            self._ready.queue.release(tenant, count)

    def _let_go(self, attempts: Sequence[A]) -> None:
        """The rows are no longer ours."""
        for attempt in attempts:
            del self._claimed[attempt.signal]
        if self._gone is not None:
            self._gone.update(attempt.signal for attempt in attempts)
        self._ready.wakeup.set()

    def _give_up(self, attempt: A) -> None:
        """The row may be another's, or nobody's: let it say. What was heard of it while it was ours went unheeded."""
        self._let_go([attempt])
        self._schedule.arm([Due(attempt.signal, self._clock.database_now())])

    # settle

    def _gather(self) -> None:
        """Settle when half of what is in hand has ended, or a moment later; quick work ends by hundreds meanwhile."""
        if 2 * len(self._ended) >= len(self._claimed):
            self._settled.set()
        elif not self._is_gathering:
            self._is_gathering = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._gathered)

    def _gathered(self) -> None:
        self._is_gathering = False
        self._settled.set()

    async def _settle_all(self) -> None:
        while True:
            await self._settled.wait()
            batch = [self._ended.popleft() for _ in range(min(BATCH, len(self._ended)))]
            if not batch:
                continue
            try:
                again = await self._reaction.settle(batch)
            except DatabaseUnavailable as error:
                self._emit(DatabaseLost(doing=f"settle {self._reaction.name}", reason=str(error)))
                self._ended.extendleft(reversed(batch))
                await self._clock.sleep(_PAUSE_S)
                self._drop_lost()
                self._settled.set()
                continue
            self.spent += sum(outcome.verdict is not Verdict.DEFERRED for _, outcome in batch)
            self._let_go([attempt for attempt, _ in batch])
            self._schedule.arm(again)
            if self._ended:
                self._gather()
            self._cleaning += len(batch)
            await self._settled_batches.put([attempt for attempt, _ in batch])

    async def _clean_up_all(self) -> None:
        while True:
            settled = await self._settled_batches.get()
            await self._reaction.clean_up(settled)
            self._cleaning -= len(settled)
            self._ready.wakeup.set()
            self._tell_idle()

    def _drop_lost(self) -> None:
        """Forget outcomes whose lease ended long ago while the database was away: others may have the rows by now."""
        too_old = self._clock.now() - _FORGET_AFTER_S
        for _ in range(len(self._ended)):
            attempt, outcome = self._ended.popleft()
            if attempt.lease_until < too_old:
                self._give_up(attempt)
            else:
                self._ended.append((attempt, outcome))

    async def _until_settled(self) -> None:
        while self._claimed or self._cleaning:
            await self._ready.wakeup.wait()

    def _tell_idle(self) -> None:
        if self.is_idle:
            self._on_idle()
