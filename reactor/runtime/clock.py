"""Time: this process's monotonic clock in ticks of a tenth of a millisecond, and what the database's clock says by it.

Deadlines are the database's. The host's wall clock is never read: each round trip of a presence shows how far the
database's clock is from our monotonic one, and the quickest recent one is believed. An error of a millisecond costs
one look-up too many, never an early retry, for the row is checked again in the database.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic

from anyio import CancelScope, sleep

from reactor.runtime.timer import TICKS_PER_S, Bell, bell, moment_of

__all__ = ["TICKS_PER_S", "Bell", "Clock"]

_TRUST_S = 60.0


class Clock:
    """Monotonic seconds since some fixed moment, and the database's seconds since 1970 in terms of them."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._round_trip_s = math.inf
        self._measured = -math.inf

    def now(self) -> float:
        """Monotonic seconds; the same clock as the event loop's."""
        return monotonic()

    def tick(self) -> int:
        return math.floor(self.now() * TICKS_PER_S)

    def tick_at(self, due_at: float) -> int:
        """Return the first tick at which `due_at` (database seconds since 1970) has passed."""
        return math.ceil((due_at - self._offset_s) * TICKS_PER_S)

    def database_now(self) -> float:
        """Return the database's clock as far as it is known, in seconds since 1970."""
        return self.now() + self._offset_s

    def database_at(self, moment: float) -> float:
        """Return what the database's clock said at a moment of ours, as far as it is known."""
        return moment + self._offset_s

    def observe(self, sent: float, received: float, database_now: float) -> None:
        """Take in that the database's clock said `database_now` between `sent` and `received` (monotonic)."""
        round_trip_s = received - sent
        if round_trip_s <= self._round_trip_s * 1.2 or received - self._measured > _TRUST_S:
            self._offset_s = database_now - (sent + received) / 2
            self._round_trip_s = round_trip_s
            self._measured = received

    def alarm(self, tick: int) -> AbstractContextManager[object]:
        """Return a scope that stops waiting at `tick`."""
        return CancelScope(deadline=moment_of(tick))

    def bell(self, call: Callable[[], None]) -> AbstractContextManager[Bell]:
        """Return a scope with a bell that calls at the ticks it is set to; more exact than an alarm."""
        return bell(call)

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` pass."""
        await sleep(seconds)
