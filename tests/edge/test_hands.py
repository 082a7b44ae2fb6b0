"""Work that blocks is done in threads: together when it is short, side by side when it isn't, and none is lost."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from anyio import create_task_group, move_on_after

from reactor.edge.hands import Hands

PATIENCE_S = 20.0


class Gate:
    """Work that waits until it is let go, and tells how many wait."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._entered = threading.Semaphore(0)

    def __call__(self) -> str:
        self._entered.release()
        assert self._open.wait(PATIENCE_S)
        return threading.current_thread().name

    def until_entered(self, count: int) -> None:
        for _ in range(count):
            assert self._entered.acquire(timeout=PATIENCE_S)

    def open(self) -> None:
        self._open.set()


async def test_it_returns_what_the_work_returns_and_raises_what_it_raises() -> None:
    hands = Hands(2, name="test")

    def breaks() -> None:
        raise KeyError("why")

    assert await hands.do(lambda: 7) == 7
    with pytest.raises(KeyError, match="why"):
        await hands.do(breaks)
    assert await hands.do(lambda: 8) == 8


async def test_every_piece_of_many_short_ones_is_done_once() -> None:
    hands = Hands(4, name="test")
    done: list[int] = []

    def work(number: int) -> Callable[[], int]:
        def note() -> int:
            done.append(number)
            return number

        return note

    results = await asyncio.gather(*(hands.do(work(number)) for number in range(2_000)))
    assert results == list(range(2_000))
    assert sorted(done) == results


async def test_short_work_is_told_of_though_its_thread_went_on_to_work_that_blocks() -> None:
    hands = Hands(1, name="test")
    for _ in range(20):
        gate = Gate()
        short = [asyncio.ensure_future(hands.do(lambda: "short")) for _ in range(100)]
        blocked = asyncio.ensure_future(hands.do(gate))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*short)
        gate.open()
        await blocked


async def test_short_work_goes_on_beside_work_that_blocks() -> None:
    hands, gate = Hands(2, name="test"), Gate()
    for _ in range(3):
        blocked = asyncio.ensure_future(hands.do(gate))
        results = await asyncio.gather(*(hands.do(lambda: "short") for _ in range(200)))
        assert len(results) == 200
        gate.open()
        await blocked
        gate = Gate()


async def test_work_that_blocks_is_done_side_by_side_up_to_the_count() -> None:
    hands, gate = Hands(3, name="test"), Gate()
    waiting = [asyncio.ensure_future(hands.do(gate)) for _ in range(5)]
    await asyncio.to_thread(gate.until_entered, 3)
    assert not gate._entered.acquire(blocking=False)  # the fourth has no thread
    gate.open()
    assert len(await asyncio.gather(*waiting)) == 5


async def test_work_aside_is_done_though_all_threads_are_held_up_and_leaves_no_thread_more() -> None:
    hands, gate = Hands(2, name="test"), Gate()
    waiting = [asyncio.ensure_future(hands.do(gate)) for _ in range(4)]
    await asyncio.to_thread(gate.until_entered, 2)
    for number in range(3):
        assert await hands.do(lambda number=number: number, aside=True) == number  # type: ignore[misc]
    assert not gate._entered.acquire(blocking=False)  # the third has no thread, though one is there
    gate.open()
    assert len(await asyncio.gather(*waiting)) == 4


async def test_work_aside_goes_before_what_waits() -> None:
    hands, gate, done = Hands(1, name="test"), Gate(), list[str]()
    holding = asyncio.ensure_future(hands.do(gate))
    await asyncio.to_thread(gate.until_entered, 1)
    waiting = [asyncio.ensure_future(hands.do(lambda: done.append("waited"))) for _ in range(3)]
    await hands.do(lambda: done.append("aside"), aside=True)
    gate.open()
    await asyncio.gather(holding, *waiting)
    assert done == ["aside", "waited", "waited", "waited"]


async def test_short_work_has_one_thread_however_much_of_it_waits() -> None:
    hands = Hands(16, name="test-short")
    await asyncio.gather(*(hands.do(lambda: None) for _ in range(5_000)))
    threads = [thread for thread in threading.enumerate() if thread.name == "test-short"]
    assert len(threads) < 4  # one, and what a moment without the processor may have added


async def test_abandoned_work_takes_no_place_of_others() -> None:
    """A store that hangs must not use up the threads: whoever gave up on it has given its thread up as well."""
    hands, hanging = Hands(2, name="test"), Gate()
    abandoned = [asyncio.ensure_future(hands.do(hanging)) for _ in range(2)]
    await asyncio.to_thread(hanging.until_entered, 2)
    for task in abandoned:
        task.cancel()
    await asyncio.wait(abandoned)
    gate = Gate()
    waiting = [asyncio.ensure_future(hands.do(gate)) for _ in range(2)]
    await asyncio.to_thread(gate.until_entered, 2)
    gate.open()
    await asyncio.gather(*waiting)
    hanging.open()
    assert await hands.do(lambda: "still there") == "still there"


async def test_work_that_was_cancelled_before_its_turn_is_never_begun() -> None:
    hands, gate, begun = Hands(1, name="test"), Gate(), []
    holding = asyncio.ensure_future(hands.do(gate))
    await asyncio.to_thread(gate.until_entered, 1)
    with move_on_after(0.01) as scope:
        await hands.do(lambda: begun.append("late"))
    assert scope.cancelled_caught
    gate.open()
    await holding
    await hands.do(lambda: None)
    assert begun == []


async def test_a_thread_that_has_ended_for_want_of_work_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.edge.hands._IDLE_S", 0.001)
    hands = Hands(2, name="test-idle")
    for number in range(50):
        assert await hands.do(lambda number=number: number) == number  # type: ignore[misc]
        if number % 10 == 0:
            await asyncio.to_thread(_until_none_is_left, "test-idle")


def _until_none_is_left(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


async def test_it_can_be_cancelled_from_a_task_group() -> None:
    hands, gate = Hands(1, name="test"), Gate()
    async with create_task_group() as tasks:
        tasks.start_soon(hands.do, gate)
        await asyncio.to_thread(gate.until_entered, 1)
        tasks.cancel_scope.cancel()
    gate.open()
