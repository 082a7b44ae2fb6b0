"""Tracks the claimed attempts of one reaction until they are settled and cleaned up.

Outcomes are settled in batches: as soon as half of the claimed attempts have ended, or after 20 ms. A single claimed
upload is settled immediately. The clean-up of one batch runs concurrently with the settlement of the next.

An outcome whose rows another session has locked is settled again in moments, concurrently with later batches.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic

from loguru import logger

from reactor.core.errors import DatabaseFailure
from reactor.core.events import DatabaseLost, Emit
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.engine.busy_outcomes import BusyOutcomes
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.postgres.statement_parts import concerns_rows
from reactor.reactions.base import A, AttemptReaction
from reactor.runtime.clock import Clock

BATCH = 500
"""Maximum number of rows in one claim or one settlement. Such a statement takes about 50 ms."""

_SETTLE_DELAY_S = 0.02
"""Maximum time that an outcome waits for more outcomes, to be settled in one batch with them."""

_CLEAN_UP_BACKLOG = 4
"""Maximum number of settled batches that wait for their clean-up. At this number, the next settlement waits."""

_PAUSE_S = 0.5
"""Delay before a settlement is repeated after the database failed."""

_BUSY_GRACE_S = 0.5
"""How long shutdown waits for the locks of other sessions. Then outcomes that need them are left to their leases."""

_PARTS = 8
"""A busy batch is divided into this many parts, if its settlement fails as a whole."""

_DROP_AFTER_S = 600.0
"""An outcome is dropped when its attempt's lease ended this long ago. Before that, its settlement is repeated, and the
database accepts the outcome only if the claim's token still matches."""


class Completer(Generic[A]):
    """Collects the outcomes of one reaction's claimed attempts, settles them, and cleans up."""

    def __init__(
        self, reaction: AttemptReaction[A], ready: ReadyQueue, schedule: Schedule, *, clock: Clock, emit: Emit
    ) -> None:
        self._reaction = reaction
        self._ready = ready
        self._schedule = schedule
        self._clock = clock
        self._emit = emit

        # Invariant: a claimed attempt is either in flight (waits for the executor or is executed) or has an outcome.
        self.claimed: dict[Signal, A] = {}
        """Attempts that are not settled yet."""
        self.in_flight = 0
        """Number of claimed attempts without an outcome."""
        self.acting: dict[Signal, A] = {}
        """Attempts that the executor executes, in the order in which they began."""
        self.ended_count = 0
        """Number of attempts that have got an outcome since the start."""
        self.spent = 0
        """Number of settled attempts that count as attempts of their rows: all verdicts except DEFERRED."""

        self._ended: deque[tuple[A, Outcome]] = deque()
        self._busy = BusyOutcomes[A](clock)
        self._give_busy_up_at = math.inf
        self._settle_now = asyncio.Event()
        self._settle_timer: asyncio.TimerHandle | None = None
        self._settled_batches = asyncio.Queue[list[A]](_CLEAN_UP_BACKLOG)
        self._cleaning = 0
        self._released: set[Signal] | None = None

    @property
    def outstanding(self) -> int:
        """Number of attempts that are not settled, or settled and not cleaned up."""
        return len(self.claimed) + self._cleaning

    @contextmanager
    def track_released(self) -> Iterator[Container[Signal]]:
        """Yield a set that collects the signals released during the block.

        The row of a released signal may have changed after the block read it from the database.
        """
        self._released = released = set[Signal]()
        try:
            yield released
        finally:
            self._released = None

    async def until_empty(self) -> None:
        """Return when all attempts are settled and cleaned up, or left to their leases because of locks."""
        self._give_busy_up_at = self._clock.now() + _BUSY_GRACE_S
        while self.outstanding:
            await self._ready.changed.wait()
            self._ready.changed.clear()

    # outcomes

    async def collect_outcomes(self) -> None:
        """Collect started attempts (they get a deadline) and ended attempts (they get an outcome). Never returns."""
        while True:
            started, ended = await self._reaction.executor.progress()
            if started:
                self._reaction.started(started)
                for attempt in started:
                    if not attempt.ended and not attempt.is_over:
                        self.acting[attempt.signal] = attempt
            if ended:
                for attempt in ended:
                    self.acting.pop(attempt.signal, None)
                self._complete(ended, self._reaction.outcomes(ended))
            if self._reaction.must_admit_again():
                self.dispatch(self._reaction.executor.drain())

    def dispatch(self, attempts: Sequence[A]) -> None:
        """Submit the attempts that may begin to the executor, and hand the others back."""
        admitted, held = self._reaction.admit(attempts)
        if admitted:
            self._reaction.executor.submit(admitted)
        self.hand_back(held)

    def hand_back(self, attempts: Sequence[A]) -> None:
        """Give the outcome DEFERRED to attempts that didn't begin. They aren't counted; their rows become due again."""
        if attempts:
            self._complete(attempts, [self._reaction.hand_back(attempt) for attempt in attempts])

    def cut_short(self, attempt: A) -> None:
        """Abandon an attempt and give it an outcome, unless it has just ended."""
        if self._reaction.executor.abandon(attempt):
            self.acting.pop(attempt.signal, None)
            self._complete([attempt], [self._reaction.cut_short(attempt)])

    def _complete(self, attempts: Sequence[A], outcomes: Sequence[Outcome]) -> None:
        self.in_flight -= len(attempts)
        self.ended_count += len(attempts)
        self.release_tenants(attempt.signal for attempt in attempts)
        for attempt, outcome in zip(attempts, outcomes, strict=True):
            attempt.is_over = True
            if attempt.is_lost:
                self._give_up(attempt)
            else:
                self._ended.append((attempt, outcome))
        self._schedule_settle()
        self._ready.changed.set()

    def release_tenants(self, signals: Iterable[Signal]) -> None:
        """Release these signals in the ready queue, so that it can return other signals of the same tenants."""
        for tenant, count in Counter(signal.tenant for signal in signals).items():
            self._ready.queue.release(tenant, count)

    def _release(self, attempts: Sequence[A]) -> None:
        """Forget the claims of these attempts: they are settled, or another reactor may have claimed their rows."""
        for attempt in attempts:
            del self.claimed[attempt.signal]
        if self._released is not None:
            self._released.update(attempt.signal for attempt in attempts)
        self._ready.changed.set()

    def _give_up(self, attempt: A) -> None:
        """Release a row that another reactor may have claimed, and schedule it immediately.

        Signals of the row were ignored while it was claimed here, so the next claim has to check the row.
        """
        self._release([attempt])
        self._schedule.arm([Due(attempt.signal, self._clock.database_now())])

    # settlements

    def _schedule_settle(self) -> None:
        if 2 * len(self._ended) >= len(self.claimed):
            self._settle_now.set()
        elif self._settle_timer is None:
            self._settle_timer = asyncio.get_running_loop().call_later(_SETTLE_DELAY_S, self._settle_timer_fired)

    def _settle_timer_fired(self) -> None:
        self._settle_timer = None
        self._settle_now.set()

    async def settle_outcomes(self) -> None:
        """Settle the outcomes batch by batch. Never returns."""
        while True:
            await self._settle_now.wait()
            self._settle_now.clear()
            batch: Sequence[tuple[A, Outcome]] = [self._ended.popleft() for _ in range(min(BATCH, len(self._ended)))]
            # the lock of one user's row holds up nothing of the others
            if self._busy.has_busy:
                batch, others = self._busy.divide(batch)
                self._busy.add(others)
            try:
                await self._settle(batch)
            except DatabaseFailure as error:
                self._emit(DatabaseLost(doing=f"settle {self._reaction.name}", reason=str(error)))
                if concerns_rows(error):
                    self._busy.add(batch)
                else:
                    self._ended.extendleft(reversed(batch))
                    await self._clock.sleep(_PAUSE_S)
                    self._drop_expired()
                    self._settle_now.set()
                    continue
            if self._ended:
                self._schedule_settle()

    async def _settle(self, batch: Sequence[tuple[A, Outcome]]) -> None:
        """Settle a batch and postpone the busy outcomes. Raises DatabaseFailure."""
        if not batch:
            return
        result = await self._reaction.settle(batch)
        settled = batch
        if result.busy:
            busy = {attempt.signal for attempt in result.busy}
            self._busy.add([each for each in batch if each[0].signal in busy])
            settled = [each for each in batch if each[0].signal not in busy]
        if self._busy.has_busy:
            self._busy.forget(attempt.signal for attempt, _ in settled)
        self.spent += sum(outcome.verdict is not Verdict.DEFERRED for _, outcome in settled)
        attempts = [attempt for attempt, _ in settled]
        self._release(attempts)
        self._schedule.arm(result.later)
        self._cleaning += len(attempts)
        await self._settled_batches.put(attempts)

    # settlements that other sessions hold up

    async def settle_busy(self) -> None:
        """Settle busy outcomes again, until the other sessions have released their locks. Never returns."""
        while True:
            batch = await self._busy.take(BATCH)
            await self._settle_parts(batch)
            before = self._clock.now() - _DROP_AFTER_S
            if self._clock.now() >= self._give_busy_up_at and self._busy:
                logger.warning("{} outcomes are left to their leases: other sessions hold locks", len(self._busy))
                before = math.inf
            for attempt in self._busy.expire(before):
                self._give_up(attempt)

    async def _settle_parts(self, batch: Sequence[tuple[A, Outcome]]) -> None:
        """Settle a batch, or if that fails because of its rows, parts of it. What can't be settled stays busy."""
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                await self._settle(part)
            except DatabaseFailure as error:
                size = math.ceil(len(part) / _PARTS)
                if concerns_rows(error) and len(part) > 1:
                    parts += [part[first : first + size] for first in range(0, len(part), size)]
                    continue
                self._emit(DatabaseLost(doing=f"settle {self._reaction.name}", reason=str(error)))
                self._busy.add(part, delay_s=_PAUSE_S)

    def _drop_expired(self) -> None:
        """Drop outcomes whose lease ended long ago: other reactors have taken over the rows since."""
        too_old = self._clock.now() - _DROP_AFTER_S
        for _ in range(len(self._ended)):
            attempt, outcome = self._ended.popleft()
            if attempt.lease_until < too_old:
                self._give_up(attempt)
            else:
                self._ended.append((attempt, outcome))

    async def clean_up_settled(self) -> None:
        """Clean up after each settled batch. Never returns."""
        while True:
            settled = await self._settled_batches.get()
            await self._reaction.clean_up(settled)
            self._cleaning -= len(settled)
            self._ready.changed.set()
