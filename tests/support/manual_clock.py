"""A clock that stands still until the test moves it on, and a way to see that all has been done by it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from anyio import CancelScope, sleep_forever
from attrs import define

from reactor.runtime.clock import TICKS_PER_S, Bell, Clock

_US_PER_S = 1_000_000
_US_PER_TICK = _US_PER_S // TICKS_PER_S
_TURNS = 5
"""Turns of the loop in which nobody may do anything: a cancellation takes two to arrive."""

DATABASE_AHEAD_S = 1_000_000.0
"""The database's clock by this one: never equal, so that a mix-up shows."""


@define(eq=False)
class _Bell(Bell):
    clock: "ManualClock"
    call: Callable[[], None]
    tick: int | None = None

    def ring_at(self, tick: int | None) -> None:
        self.tick = tick
        self.clock.ring()


class ManualClock(Clock):
    """Time in whole microseconds, moved by `advance` alone."""

    def __init__(self) -> None:
        super().__init__()
        self._now_us = 1_000 * _US_PER_S
        self._bells: list[_Bell] = []
        self.observe(self.now(), self.now(), self.now() + DATABASE_AHEAD_S)

    def now(self) -> float:
        return self._now_us / _US_PER_S

    def tick(self) -> int:
        return self._now_us // _US_PER_TICK

    def alarm(self, tick: int) -> AbstractContextManager[object]:
        return self._alarm(tick)

    @contextmanager
    def _alarm(self, tick: int) -> Iterator[CancelScope]:
        with CancelScope() as scope:
            with self.bell(scope.cancel) as bell:
                bell.ring_at(tick)
                yield scope

    def bell(self, call: Callable[[], None]) -> AbstractContextManager[Bell]:
        return self._bell(call)

    @contextmanager
    def _bell(self, call: Callable[[], None]) -> Iterator[Bell]:
        bell = _Bell(self, call)
        self._bells.append(bell)
        try:
            yield bell
        finally:
            self._bells.remove(bell)

    async def sleep(self, seconds: float) -> None:
        with self.alarm(self.tick() + round(seconds * TICKS_PER_S)):
            await sleep_forever()

    def advance(self, seconds: float) -> None:
        """Let time pass at once; whoever waits for a moment that has come is woken."""
        self._now_us += round(seconds * _US_PER_S)
        self.ring()

    @property
    def awaited(self) -> list[int]:
        """The ticks that somebody waits for."""
        return [bell.tick for bell in self._bells if bell.tick is not None]

    def ring(self) -> None:
        """Ring what is due."""
        for bell in [bell for bell in self._bells if bell.tick is not None and bell.tick <= self.tick()]:
            bell.tick = None
            bell.call()


async def idle_event() -> None:
    """Return when every other task waits for something that hasn't come.

    What anyio's wait_all_tasks_blocked promises, by turns of the loop and not by tenths of a second.
    """
    this, turns = asyncio.current_task(), 0
    while turns < _TURNS:
        await asyncio.sleep(0)
        waiters = [getattr(task, "_fut_waiter", None) for task in asyncio.all_tasks() if task is not this]
        turns = 0 if any(waiter is None or waiter.done() for waiter in waiters) else turns + 1
