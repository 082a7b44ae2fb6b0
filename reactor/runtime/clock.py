"""The monotonic clock of this process, in seconds and in ticks, and an estimate of the database's clock.

Deadlines are the database's. The host's wall clock is never read: each round trip to the database measures the offset
from our monotonic clock to the database's, and the fastest recent round trip counts. An error of a millisecond costs
one query too many, and never an early retry, because the database checks the row again.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from anyio import CancelScope, sleep

from reactor.runtime.timer import TICKS_PER_S, Timer, loop_timer, seconds_at

__all__ = ["TICKS_PER_S", "Clock", "Timer"]

_TRUSTED_FOR_S = 60.0
"""How long a fast round trip counts more than a slower one after it."""


class Clock:
    """Monotonic seconds since a fixed moment, and the database's seconds since 1970 computed from them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        """Return monotonic seconds, of the same clock as the event loop's."""

        self.offset_s = 0.0
        """Database seconds = monotonic seconds + offset_s. Only `observe` changes it."""

        self._round_trip_s = math.inf
        self._measured_at = -math.inf

    def tick(self) -> int:
        """Return the current tick."""
        return math.floor(self.now() * TICKS_PER_S)

    def tick_at(self, due_at: float) -> int:
        """Return the first tick at which `due_at` (database seconds since 1970) has passed."""
        return math.ceil((due_at - self.offset_s) * TICKS_PER_S)

    def database_now(self) -> float:
        """Return an estimate of the database's time, in seconds since 1970."""
        return self.now() + self.offset_s

    def database_at(self, moment: float) -> float:
        """Return an estimate of the database's time at `moment` (monotonic seconds), in seconds since 1970."""
        return moment + self.offset_s

    def observe(self, sent: float, received: float, database_now: float) -> None:
        """Measure the offset: the database's time was `database_now` between `sent` and `received` (monotonic)."""
        round_trip_s = received - sent
        if round_trip_s <= self._round_trip_s * 1.2 or received - self._measured_at > _TRUSTED_FOR_S:
            self.offset_s = database_now - (sent + received) / 2
            self._round_trip_s = round_trip_s
            self._measured_at = received

    def alarm(self, tick: int) -> AbstractContextManager[object]:
        """Return a scope that is cancelled at `tick`."""
        return CancelScope(deadline=seconds_at(tick))

    def timer(self, call: Callable[[], None]) -> AbstractContextManager[Timer]:
        """Return a scope with a timer that calls at the ticks it is set to."""
        return loop_timer(call)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await sleep(seconds)
