"""A timer calls its function once, at its tick and never earlier."""

import asyncio

from reactor.runtime.clock import Clock
from reactor.runtime.timer import TICKS_PER_S, loop_timer

WITHIN_S = 10.0


def tick_after(seconds: float) -> int:
    return Clock().tick() + round(seconds * TICKS_PER_S)


class Calls:
    """A function for a timer that records the ticks of its calls."""

    def __init__(self) -> None:
        self.ticks: list[int] = []
        self._called = asyncio.Event()

    def __call__(self) -> None:
        self.ticks.append(Clock().tick())
        self._called.set()

    async def next(self) -> int:
        await asyncio.wait_for(self._called.wait(), WITHIN_S)
        self._called.clear()
        return self.ticks[-1]


async def test_a_timer_calls_at_its_tick_and_never_before() -> None:
    calls = Calls()
    with loop_timer(calls) as timer:
        for delay_ms in (0, 1, 3, 7):
            tick = tick_after(delay_ms / 1000)
            timer.set(tick)
            assert await calls.next() >= tick
    assert len(calls.ticks) == 4


async def test_a_tick_in_the_past_calls_as_soon_as_possible() -> None:
    calls = Calls()
    with loop_timer(calls) as timer:
        for tick in (0, -5, tick_after(-1.0)):
            timer.set(tick)
            await calls.next()


async def test_a_tick_replaces_the_tick_that_was_set_before() -> None:
    calls, later_calls = Calls(), Calls()
    with loop_timer(calls) as timer, loop_timer(later_calls) as later_timer:
        timer.set(tick_after(0.001))
        timer.set(tick_after(60.0))
        later_timer.set(tick_after(0.005))
        await later_calls.next()
        assert calls.ticks == []
        timer.set(tick_after(0.0))  # replaces the tick in 60 s
        await calls.next()
        timer.set(tick_after(0.001))
        timer.set(None)
        later_timer.set(tick_after(0.005))
        await later_calls.next()
    assert len(calls.ticks) == 1


async def test_a_timer_does_not_call_after_its_block() -> None:
    calls, later_calls = Calls(), Calls()
    with loop_timer(calls) as timer:
        timer.set(tick_after(0.001))
    with loop_timer(later_calls) as later_timer:
        later_timer.set(tick_after(0.005))
        await later_calls.next()
    assert calls.ticks == []
