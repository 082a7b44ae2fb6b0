"""A bell that rings at a tick of the clock.

Who waits by the loop's own timers waits up to a millisecond longer: epoll counts whole ones. Linux has a timer that is
a file descriptor, and rings within a tenth of that; elsewhere the loop's must do.
"""

import asyncio
import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

TICKS_PER_S = 10_000
"""A timer is late by half a tick on average."""

_NS_PER_S = 1_000_000_000
_NS_PER_TICK = _NS_PER_S // TICKS_PER_S
_ABSOLUTE = 1
"""TFD_TIMER_ABSTIME."""

_HAS_TIMERS = sys.platform == "linux" and sys.maxsize > 1 << 32  # where a long is as wide as the kernel's seconds
_LIBC = ctypes.CDLL(None, use_errno=True) if _HAS_TIMERS else None

_Times = ctypes.c_long * 4
"""struct itimerspec: seconds and nanoseconds of the interval, then of the moment."""


class Bell(Protocol):
    """Calls somebody at a tick."""

    def ring_at(self, tick: int | None) -> None:
        """Ring once at `tick`, or at once if it has passed, and no more at the one that was set before. None: never."""


class LoopBell(Bell):
    """A bell by the loop's own timers."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def ring_at(self, tick: int | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if tick is None else self._loop.call_at(moment_of(tick), self._call)


@contextmanager
def loop_bell(call: Callable[[], None]) -> Iterator[Bell]:
    """Yield a bell by the loop's own timers."""
    it = LoopBell(call)
    try:
        yield it
    finally:
        it.ring_at(None)


class _ExactBell(Bell):
    """A bell by a timerfd, which stays its owner's."""

    def __init__(self, call: Callable[[], None], timer: int, libc: ctypes.CDLL) -> None:
        self._call = call
        self._timer = timer
        self._libc = libc
        self._tick: int | None = None

    def ring_at(self, tick: int | None) -> None:
        if tick == self._tick:
            return
        self._tick = tick
        # 0 would be never; what is past rings at once
        at = (0, 0) if tick is None else divmod(max(1, tick * _NS_PER_TICK), _NS_PER_S)
        if self._libc.timerfd_settime(self._timer, _ABSOLUTE, ctypes.byref(_Times(0, 0, *at)), None) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def ring(self) -> None:
        """Call, for the descriptor is readable."""
        try:
            os.read(self._timer, 8)  # how often it has rung
        except BlockingIOError:
            return  # it was set anew meanwhile
        self._tick = None
        self._call()


@contextmanager
def bell(call: Callable[[], None]) -> Iterator[Bell]:
    """Yield a bell that calls in this loop until the block ends."""
    loop = asyncio.get_running_loop()
    if _LIBC is None or (timer := _LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)) < 0:
        with loop_bell(call) as by_loop:
            yield by_loop
        return
    try:
        exact = _ExactBell(call, timer, _LIBC)
        loop.add_reader(timer, exact.ring)
        try:
            yield exact
        finally:
            loop.remove_reader(timer)
    finally:
        os.close(timer)


def moment_of(tick: int) -> float:
    """Return the monotonic seconds at which `tick` begins."""
    # Invariant: whoever is woken then finds that the tick has come. 1045350 / 1000 * 1000 is less than 1045350
    return math.nextafter(tick / TICKS_PER_S, math.inf)
