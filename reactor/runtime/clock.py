"""The monotonic clock of this process, in seconds and in ticks, and an estimate of the database's clock.

Due times and deadlines are times of the database's clock. The host's wall clock is never read. The offset between the
monotonic clock and the database's clock is measured by round trips to the database; a slow round trip is ignored after
a fast recent one. An error of a millisecond may cost one more query, but no early retry: the database checks the row.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from anyio import CancelScope, sleep

from reactor.runtime.timer import TICKS_PER_S, Timer, loop_timer, seconds_at

__all__ = ["TICKS_PER_S", "Clock", "Timer"]

_TRUSTED_FOR_S = 60.0
"""How long a measurement is kept although slower round trips follow."""


class Clock:
    """Returns monotonic seconds, and estimates the database's seconds since 1970 from them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        """Returns the seconds of the monotonic clock that the event loop uses."""

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
        """Measure the offset, unless a recent round trip was clearly faster.

        The database read its clock as `database_now` between `sent` and `received` (monotonic seconds).
        """
        round_trip_s = received - sent
        if round_trip_s <= self._round_trip_s * 1.2 or received - self._measured_at > _TRUSTED_FOR_S:
            self.offset_s = database_now - (sent + received) / 2
            self._round_trip_s = round_trip_s
            self._measured_at = received

    def alarm(self, tick: int) -> AbstractContextManager[object]:
        """Return a scope that is cancelled at `tick`."""
        return CancelScope(deadline=seconds_at(tick))

    def timer(self, call: Callable[[], None]) -> AbstractContextManager[Timer]:
        """Return a scope with a timer that runs `call` at the tick that was set."""
        return loop_timer(call)

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await sleep(seconds)
