"""A clock that only the test advances, and a function that waits until every other task waits."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from anyio import CancelScope, sleep_forever
from attrs import define

from reactor.runtime.clock import TICKS_PER_S, Clock, Timer

_US_PER_S = 1_000_000
_US_PER_TICK = _US_PER_S // TICKS_PER_S
_IDLE_CYCLES = 5
"""`idle_event` returns after all other tasks have waited for this many cycles. A cancellation takes two cycles."""

DATABASE_AHEAD_S = 1_000_000.0
"""Offset of the database's clock: far from zero, so that a test fails when code mixes up the two clocks."""


@define(eq=False)
class _ManualTimer(Timer):
    clock: "ManualClock"
    call: Callable[[], None]
    tick: int | None = None

    def set(self, tick: int | None) -> None:
        self.tick = tick
        self.clock.call_due()


class ManualClock(Clock):
    """Time in whole microseconds; only `advance` changes it."""

    def __init__(self) -> None:
        self._now_us = 1_000 * _US_PER_S
        super().__init__(lambda: self._now_us / _US_PER_S)
        self._timers: list[_ManualTimer] = []
        self.observe(self.now(), self.now(), self.now() + DATABASE_AHEAD_S)

    def tick(self) -> int:
        return self._now_us // _US_PER_TICK

    def alarm(self, tick: int) -> AbstractContextManager[object]:
        return self._alarm(tick)

    @contextmanager
    def _alarm(self, tick: int) -> Iterator[CancelScope]:
        with CancelScope() as scope:
            with self.timer(scope.cancel) as timer:
                timer.set(tick)
                yield scope

    def timer(self, call: Callable[[], None]) -> AbstractContextManager[Timer]:
        return self._timer(call)

    @contextmanager
    def _timer(self, call: Callable[[], None]) -> Iterator[Timer]:
        timer = _ManualTimer(self, call)
        self._timers.append(timer)
        try:
            yield timer
        finally:
            self._timers.remove(timer)

    async def sleep(self, seconds: float) -> None:
        with self.alarm(self.tick() + round(seconds * TICKS_PER_S)):
            await sleep_forever()

    def advance(self, seconds: float) -> None:
        """Advance the time by one jump, and call the timers that are due."""
        self._now_us += round(seconds * _US_PER_S)
        self.call_due()

    @property
    def awaited(self) -> list[int]:
        """The ticks of all timers that are set."""
        return [timer.tick for timer in self._timers if timer.tick is not None]

    def call_due(self) -> None:
        """Call the timers that are due."""
        for timer in [timer for timer in self._timers if timer.tick is not None and timer.tick <= self.tick()]:
            timer.tick = None
            timer.call()


async def idle_event() -> None:
    """Return when every other task waits for an event that has not happened.

    anyio's wait_all_tasks_blocked does the same, but checks only every tenth of a second.
    """
    this, cycles = asyncio.current_task(), 0
    while cycles < _IDLE_CYCLES:
        await asyncio.sleep(0)
        waiters = [getattr(task, "_fut_waiter", None) for task in asyncio.all_tasks() if task is not this]
        cycles = 0 if any(waiter is None or waiter.done() for waiter in waiters) else cycles + 1
