"""A timer that calls at a tick of the monotonic clock."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

TICKS_PER_S = 10_000
"""Ticks of a tenth of a millisecond: rounding up to a tick delays a timer by half a tick on average."""


class Timer(Protocol):
    """Calls once at the tick it is set to."""

    def set(self, tick: int | None) -> None:
        """Replace the tick: call once at `tick`, or as soon as possible if it has passed; None: don't call."""


class LoopTimer(Timer):
    """A timer of the event loop. On Linux it is up to 1 ms late, because epoll waits whole milliseconds."""

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
    """Yield a timer of the running event loop; it doesn't call after the block."""
    timer = LoopTimer(call)
    try:
        yield timer
    finally:
        timer.set(None)


def seconds_at(tick: int) -> float:
    """Return the monotonic seconds at which `tick` begins."""
    # Invariant: floor(seconds_at(tick) * TICKS_PER_S) == tick. Without nextafter, 1045350 would give 1045349.
    return math.nextafter(tick / TICKS_PER_S, math.inf)
