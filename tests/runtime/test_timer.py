"""A bell rings once, at its tick and never before, whichever kind it is."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from reactor.runtime import timer
from reactor.runtime.clock import Clock
from reactor.runtime.timer import TICKS_PER_S, Bell, LoopBell, bell, loop_bell

Open = Callable[[Callable[[], None]], AbstractContextManager[Bell]]


KINDS = pytest.mark.parametrize("opened", [bell, loop_bell], ids=["exact", "by loop"])


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def soon(seconds: float) -> int:
    return Clock().tick() + round(seconds * TICKS_PER_S)


class Rings:
    """When it rang, in ticks."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self._rang = asyncio.Event()

    def __call__(self) -> None:
        self.at.append(Clock().tick())
        self._rang.set()

    async def next(self) -> int:
        await asyncio.wait_for(self._rang.wait(), 10)
        self._rang.clear()
        return self.at[-1]


@KINDS
async def test_it_rings_at_its_tick_and_never_before(opened: Open) -> None:
    rings = Rings()
    with opened(rings) as it:
        for wait_ms in (0, 1, 3, 7):
            tick = soon(wait_ms / 1000)
            it.ring_at(tick)
            assert await rings.next() >= tick
    assert len(rings.at) == 4


@KINDS
async def test_what_is_past_rings_at_once(opened: Open) -> None:
    rings = Rings()
    with opened(rings) as it:
        for tick in (0, -5, soon(-1.0)):
            it.ring_at(tick)
            await rings.next()


@KINDS
async def test_only_the_last_tick_that_was_set_counts(opened: Open) -> None:
    rings, other = Rings(), Rings()
    with opened(rings) as it, opened(other) as after:
        it.ring_at(soon(0.001))
        it.ring_at(soon(60.0))
        later = soon(0.005)
        after.ring_at(later)
        await other.next()
        assert rings.at == []
        it.ring_at(soon(0.0))  # sooner
        await rings.next()
        it.ring_at(soon(0.001))
        it.ring_at(None)
        after.ring_at(soon(0.005))
        await other.next()
    assert len(rings.at) == 1


@KINDS
async def test_it_rings_no_more_after_its_block_and_leaves_nothing(opened: Open) -> None:
    before = descriptors()
    rings, other = Rings(), Rings()
    with opened(rings) as it:
        it.ring_at(soon(0.001))
    with loop_bell(other) as after:
        after.ring_at(soon(0.005))
        await other.next()
    assert rings.at == []
    assert descriptors() == before


async def test_where_there_is_no_such_timer_the_loop_s_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "_LIBC", None)
    rings = Rings()
    with bell(rings) as it:
        assert isinstance(it, LoopBell)
        it.ring_at(soon(0.001))
        await rings.next()
