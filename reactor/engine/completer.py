"""Holds what one reaction has claimed until its outcome is committed: outcomes, settlements, clean-up.

Outcomes are settled in batches: when half of what is claimed has ended, or 20 ms later. One upload alone is settled at
once. What the settled leave behind is removed beside the next settlement.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import DatabaseLost, Emit
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.reactions.base import A, AttemptReaction
from reactor.runtime.clock import Clock

BATCH = 500
"""Most rows in one claim or one settlement: a statement of some 50 ms."""

_SETTLE_DELAY_S = 0.02
"""How long an outcome may wait for others to be settled with."""

_CLEAN_UP_BACKLOG = 4
"""How many settled batches may wait for their clean-up before the next settlement waits too."""

_PAUSE_S = 0.5
"""How long a settlement waits after the database failed."""

_DROP_AFTER_S = 600.0
"""How long after its lease an outcome is still offered to the database, whose fence decides whether it counts."""


class Completer(Generic[A]):
    """The claimed attempts of one reaction, and what becomes of them."""

    def __init__(
        self, reaction: AttemptReaction[A], ready: ReadyQueue, schedule: Schedule, *, clock: Clock, emit: Emit
    ) -> None:
        self._reaction = reaction
        self._ready = ready
        self._schedule = schedule
        self._clock = clock
        self._emit = emit

        # Invariant: a claimed attempt is in flight (waits for the executor, or is acted on) or has ended, never both.
        self.claimed: dict[Signal, A] = {}
        """Attempts whose outcome is not committed yet."""
        self.in_flight = 0
        """Claimed attempts without an outcome."""
        self.acting: dict[Signal, A] = {}
        """Attempts that the executor works on, in the order in which they began."""
        self.ended_count = 0
        """Attempts that have ended since the start."""
        self.spent = 0
        """Attempts that were settled and counted: not those handed back."""

        self._ended: deque[tuple[A, Outcome]] = deque()
        self._settle_now = asyncio.Event()
        self._settle_timer: asyncio.TimerHandle | None = None
        self._settled_batches = asyncio.Queue[list[A]](_CLEAN_UP_BACKLOG)
        self._cleaning = 0
        self._released: set[Signal] | None = None

    @property
    def outstanding(self) -> int:
        """Attempts that are claimed, and settled ones that are not cleaned up."""
        return len(self.claimed) + self._cleaning

    @contextmanager
    def track_released(self) -> Iterator[Container[Signal]]:
        """Yield the signals that are released until the block ends: what was read of them meanwhile is out of date."""
        self._released = released = set[Signal]()
        try:
            yield released
        finally:
            self._released = None

    async def until_empty(self) -> None:
        """Return once everything is settled and cleaned up."""
        while self.outstanding:
            await self._ready.changed.wait()
            self._ready.changed.clear()

    # outcomes

    async def collect_outcomes(self) -> None:
        """Take the executor's progress: started attempts get a deadline, ended ones an outcome. Never returns."""
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
            if self._reaction.is_held_up:
                self.hand_back(self._reaction.executor.drain())

    def hand_back(self, attempts: Sequence[A]) -> None:
        """End attempts that did not begin: not counted, due again."""
        if attempts:
            self._complete(attempts, [self._reaction.hand_back(attempt) for attempt in attempts])

    def cut_short(self, attempt: A) -> None:
        """Abandon an attempt, unless it has just ended."""
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
        """Let as many other signals of the same tenants be taken."""
        for tenant, count in Counter(signal.tenant for signal in signals).items():
            self._ready.queue.release(tenant, count)

    def _release(self, attempts: Sequence[A]) -> None:
        """Stop holding the rows: they are settled, or may be another reactor's."""
        for attempt in attempts:
            del self.claimed[attempt.signal]
        if self._released is not None:
            self._released.update(attempt.signal for attempt in attempts)
        self._ready.changed.set()

    def _give_up(self, attempt: A) -> None:
        """Release a row that another reactor may hold, and look at it again: hints of it were ignored meanwhile."""
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
        """Settle batch after batch. Never returns."""
        while True:
            await self._settle_now.wait()
            self._settle_now.clear()
            batch = [self._ended.popleft() for _ in range(min(BATCH, len(self._ended)))]
            if not batch:
                continue
            try:
                due_again = await self._reaction.settle(batch)
            except DatabaseUnavailable as error:
                self._emit(DatabaseLost(doing=f"settle {self._reaction.name}", reason=str(error)))
                self._ended.extendleft(reversed(batch))
                await self._clock.sleep(_PAUSE_S)
                self._drop_expired()
                self._settle_now.set()
                continue
            self.spent += sum(outcome.verdict is not Verdict.DEFERRED for _, outcome in batch)
            attempts = [attempt for attempt, _ in batch]
            self._release(attempts)
            self._schedule.arm(due_again)
            if self._ended:
                self._schedule_settle()
            self._cleaning += len(attempts)
            await self._settled_batches.put(attempts)

    def _drop_expired(self) -> None:
        """Drop outcomes whose lease ended long ago, while the database was away: the rows were taken over since."""
        too_old = self._clock.now() - _DROP_AFTER_S
        for _ in range(len(self._ended)):
            attempt, outcome = self._ended.popleft()
            if attempt.lease_until < too_old:
                self._give_up(attempt)
            else:
                self._ended.append((attempt, outcome))

    async def clean_up_settled(self) -> None:
        """Clean up after settled batches. Never returns."""
        while True:
            settled = await self._settled_batches.get()
            await self._reaction.clean_up(settled)
            self._cleaning -= len(settled)
            self._ready.changed.set()
