"""Outcomes whose settlement other sessions hold up: they have locked a row, or a trigger of the app waits for them."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Final, Generic

from reactor.core.lock_backoff import LockBackoff
from reactor.core.model import Outcome, Signal
from reactor.reactions.base import A
from reactor.runtime.clock import Clock

_PRECISION_S: Final = 0.001


class BusyOutcomes(Generic[A]):
    """Holds outcomes until it is time to settle them again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._outcomes: dict[Signal, tuple[A, Outcome]] = {}
        self.has_busy = False
        """Whether an outcome is held up, or was and isn't settled yet. Read only."""
        self._locks = LockBackoff[Signal]()
        self._due_at = math.inf
        """Monotonic seconds; finite while there are outcomes."""
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcomes: Sequence[tuple[A, Outcome]], *, delay_s: float = 0.0) -> None:
        """Add outcomes that couldn't be settled, for at least `delay_s`."""
        if outcomes:
            self.has_busy = True
            self._outcomes |= {each[0].signal: each for each in outcomes}
            now = self._clock.now()
            delay_s = max(delay_s, self._locks.delay_s([each[0].signal for each in outcomes], now))
            self._due_at = min(self._due_at, now + delay_s)
            self._changed.set()

    def forget(self, settled: Iterable[Signal]) -> None:
        """Record that these outcomes are settled: they are held up no more."""
        self._locks.forget(settled)
        self.has_busy = bool(self._outcomes) or len(self._locks) > 0

    def divide(
        self, outcomes: Sequence[tuple[A, Outcome]]
    ) -> tuple[Sequence[tuple[A, Outcome]], Sequence[tuple[A, Outcome]]]:
        """Divide outcomes into those of tenants without a busy outcome, and the others."""
        tenants = {attempt.tenant for attempt, _ in self._outcomes.values()}
        others = [each for each in outcomes if each[0].tenant in tenants]
        return [each for each in outcomes if each[0].tenant not in tenants], others

    async def take(self, limit: int) -> list[tuple[A, Outcome]]:
        """Wait until it is time to settle outcomes again; remove and return the oldest, at most `limit`."""
        while not self._outcomes:
            await self._changed.wait()
            self._changed.clear()
        while (wait_s := self._due_at - self._clock.now()) > _PRECISION_S:
            await self._clock.sleep(wait_s)
        taken = [self._outcomes.pop(signal) for signal in list(self._outcomes)[:limit]]
        self._due_at = self._clock.now() if self._outcomes else math.inf
        return taken

    def expire(self, before: float) -> list[A]:
        """Remove and return the attempts whose lease has ended before `before`."""
        removed = [attempt for attempt, _ in self._outcomes.values() if attempt.lease_until < before]
        for attempt in removed:
            del self._outcomes[attempt.signal]
        self.forget(attempt.signal for attempt in removed)
        return removed
