"""A timer that runs a function at a tick of the monotonic clock."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

TICKS_PER_S = 10_000
"""A tick is 0.1 ms. Due times are rounded up to a tick, which delays a timer by 0.05 ms on average."""


class Timer(Protocol):
    """Runs its function once, at the tick that was set."""

    def set(self, tick: int | None) -> None:
        """Replace the tick. A past tick runs the function as soon as possible; None cancels the timer."""


class LoopTimer(Timer):
    """A timer of the event loop. On Linux it is up to 1 ms late, because epoll waits in whole milliseconds."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, tick: int | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if tick is None else self._loop.call_at(seconds_at(tick), self._call)


@contextmanager
def loop_timer(call: Callable[[], None]) -> Iterator[Timer]:
    """Yield a timer of the running event loop. The timer is cancelled when the block ends."""
    timer = LoopTimer(call)
    try:
        yield timer
    finally:
        timer.set(None)


def seconds_at(tick: int) -> float:
    """Return the monotonic seconds at which `tick` begins."""
    # Invariant: floor(seconds_at(tick) * TICKS_PER_S) == tick. Without nextafter, 1045350 would give 1045349.
    return math.nextafter(tick / TICKS_PER_S, math.inf)
