"""Work that blocks is done in threads: together when it is short, side by side when it isn't, and none is lost."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import pytest
from anyio import create_task_group, move_on_after
from attrs import define

from reactor.runtime.executor import Job
from reactor.runtime.thread_pool import Hands

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

    @property
    def is_entered(self) -> bool:
        return self._entered.acquire(blocking=False)

    def open(self) -> None:
        self._open.set()


@define(kw_only=True, eq=False)
class Piece(Job):
    """A piece of work of one tenant."""

    work: Callable[[], Any]
    of: int = 1

    @property
    def tenant(self) -> int:
        return self.of


class Harness:
    """Hands, and all that they told."""

    def __init__(self, count: int, *, per_tenant: int | None = None, name: str = "test") -> None:
        self.hands = Hands[Piece](lambda piece: piece.work(), count, per_tenant=per_tenant, name=name)
        self.hands.attend(self._hear)
        self.begun: list[Piece] = []
        self.ended: list[Piece] = []
        self._heard = asyncio.Event()

    def _hear(self, begun: Sequence[Piece], ended: Sequence[Piece]) -> None:
        assert all(piece.began > 0.0 for piece in begun)
        self.begun += begun
        assert set(ended) <= set(self.begun)
        self.ended += ended
        self._heard.set()

    def submit(self, *works: Callable[[], Any], of: int = 1) -> list[Piece]:
        pieces = [Piece(work=work, of=of) for work in works]
        self.hands.submit(pieces)
        return pieces

    async def until(self, pieces: Sequence[Piece], *, begun: bool = False) -> None:
        """Wait until it was told that they have ended, or begun."""
        async with asyncio.timeout(PATIENCE_S):
            while not set(pieces) <= set(self.begun if begun else self.ended):
                self._heard.clear()
                await self._heard.wait()


def nothing() -> None:
    pass


async def test_it_tells_what_the_work_returned_and_what_it_raised() -> None:
    harness = Harness(2)

    def breaks() -> None:
        raise KeyError("why")

    pieces = harness.submit(lambda: 7, breaks, lambda: 8)
    await harness.until(pieces)
    assert [piece.result for piece in pieces] == [7, None, 8]
    assert [repr(piece.error) for piece in pieces] == ["None", "KeyError('why')", "None"]
    assert all(0.0 < piece.began <= piece.ended for piece in pieces)
    assert harness.hands.waiting == 0


async def test_every_piece_of_many_short_ones_is_done_and_told_once() -> None:
    harness, done = Harness(4), list[int]()

    def work(number: int) -> Callable[[], None]:
        return lambda: done.append(number)

    pieces = [piece for first in range(0, 5_000, 50) for piece in harness.submit(*map(work, range(first, first + 50)))]
    await harness.until(pieces)
    assert sorted(done) == list(range(5_000))
    assert len(harness.begun) == len(harness.ended) == 5_000


async def test_what_begins_is_told_while_it_goes_on() -> None:
    harness, gate = Harness(2), Gate()
    first = harness.submit(gate)
    await harness.until(first, begun=True)
    assert harness.ended == []
    second = harness.submit(nothing, gate)  # its thread has seen no sleep in between
    await asyncio.to_thread(gate.until_entered, 2)
    await harness.until(second, begun=True)
    gate.open()
    await harness.until([*first, *second])


async def test_short_work_is_told_of_though_its_thread_went_on_to_work_that_blocks() -> None:
    harness = Harness(1)
    for _ in range(20):
        gate = Gate()
        *short, blocked = harness.submit(*[nothing] * 100, gate)
        await harness.until(short)
        gate.open()
        await harness.until([blocked])


async def test_short_work_goes_on_beside_work_that_blocks() -> None:
    harness = Harness(2)
    for _ in range(3):
        gate = Gate()
        blocked, *short = harness.submit(gate, *[nothing] * 200)
        await harness.until(short)
        gate.open()
        await harness.until([blocked])


async def test_work_that_blocks_is_done_side_by_side_up_to_the_count() -> None:
    harness, gate = Harness(3), Gate()
    pieces = harness.submit(*[gate] * 5)
    await asyncio.to_thread(gate.until_entered, 3)
    assert not gate.is_entered  # the fourth has no thread
    assert harness.hands.waiting == 2
    gate.open()
    await harness.until(pieces)


async def test_no_tenant_has_more_threads_than_its_share_and_others_pass_its_line() -> None:
    harness, gate, other = Harness(4, per_tenant=2), Gate(), Gate()
    flood = harness.submit(*[gate] * 6, of=1)
    await asyncio.to_thread(gate.until_entered, 2)
    late = harness.submit(*[other] * 3, of=2)
    await asyncio.to_thread(other.until_entered, 2)
    assert not gate.is_entered
    assert not other.is_entered
    other.open()
    await harness.until(late)
    gate.open()
    await harness.until(flood)


async def test_work_aside_returns_what_it_returns_and_raises_what_it_raises() -> None:
    hands = Harness(1).hands

    def breaks() -> None:
        raise KeyError("why")

    assert await hands.aside(lambda: 7) == 7
    with pytest.raises(KeyError, match="why"):
        await hands.aside(breaks)


async def test_work_aside_is_done_though_all_threads_are_held_up_and_leaves_no_thread_more() -> None:
    harness, gate = Harness(2), Gate()
    pieces = harness.submit(*[gate] * 4)
    await asyncio.to_thread(gate.until_entered, 2)
    for number in range(3):
        assert await harness.hands.aside(lambda number=number: number) == number  # type: ignore[misc]
    assert not gate.is_entered  # the third has no thread, though one is there
    gate.open()
    await harness.until(pieces)


async def test_work_aside_goes_before_what_waits() -> None:
    harness, gate, done = Harness(1), Gate(), list[str]()
    holding = harness.submit(gate)
    await asyncio.to_thread(gate.until_entered, 1)
    waiting = harness.submit(*[lambda: done.append("waited")] * 3)
    await harness.hands.aside(lambda: done.append("aside"))
    gate.open()
    await harness.until([*holding, *waiting])
    assert done == ["aside", "waited", "waited", "waited"]


async def test_short_work_has_one_thread_however_much_of_it_waits() -> None:
    harness = Harness(16, name="test-short")
    await harness.until(harness.submit(*[nothing] * 5_000))
    threads = [thread for thread in threading.enumerate() if thread.name == "test-short"]
    assert len(threads) < 4  # one, and what a moment without the processor may have added


async def test_long_work_of_many_short_parts_is_short() -> None:
    """A settlement's files are removed many at a time: that says nothing of the store."""
    harness = Harness(16, name="test-parts")

    def remove_ten() -> None:
        until = monotonic() + 0.001
        while monotonic() < until:
            pass

    async with create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(harness.hands.aside, remove_ten, 10)
    await harness.until(harness.submit(*[nothing] * 1_000))
    threads = [thread for thread in threading.enumerate() if thread.name == "test-parts"]
    assert len(threads) < 4  # one, and what a moment without the processor may have added


async def test_a_slow_store_finds_half_of_its_threads_again() -> None:
    harness, first, again = Harness(8), Gate(), Gate()
    pieces = harness.submit(*[first] * 8)
    await asyncio.to_thread(first.until_entered, 8)
    first.open()
    await harness.until(pieces)
    pieces = harness.submit(*[again] * 8)
    again.until_entered(4)  # while the loop, which would look how long work takes, stands still
    again.open()
    await harness.until(pieces)


async def test_dropped_work_takes_no_place_of_others_and_is_told_of_no_more() -> None:
    """A store that hangs must not use up the threads: whoever gave up on it has given its thread up as well."""
    harness, hanging = Harness(2, per_tenant=2), Gate()
    dropped = harness.submit(hanging, hanging)
    await asyncio.to_thread(hanging.until_entered, 2)
    assert all(harness.hands.drop(piece) for piece in dropped)
    assert all(piece.is_cancelled for piece in dropped)
    gate = Gate()
    pieces = harness.submit(gate, gate)
    await asyncio.to_thread(gate.until_entered, 2)
    gate.open()
    await harness.until(pieces)
    hanging.open()
    await harness.until(harness.submit(nothing))
    assert not set(dropped) & set(harness.ended)
    assert [piece.result for piece in dropped] == [None, None]


async def test_work_that_is_dropped_before_its_thread_has_come_is_left_alone() -> None:
    harness, done, dropped = Harness(2), set[int](), set[int]()
    for number in range(100):
        await harness.until(harness.submit(nothing))  # a thread is there, and asleep
        [piece] = harness.submit(partial(done.add, number))
        if harness.hands.drop(piece):
            dropped.add(number)
    await harness.until(harness.submit(nothing))
    assert len(done & dropped) < len(dropped) / 2  # the thread may be there at once


async def test_work_that_waits_begins_in_place_of_what_is_dropped() -> None:
    harness, hanging = Harness(1), Gate()
    [dropped] = harness.submit(hanging)
    await asyncio.to_thread(hanging.until_entered, 1)
    waiting = harness.submit(nothing)
    assert harness.hands.drop(dropped)
    await harness.until(waiting)
    hanging.open()


async def test_work_that_is_taken_back_or_dropped_before_its_turn_is_never_begun() -> None:
    harness, gate, begun = Harness(1), Gate(), list[str]()
    holding = harness.submit(gate)
    await asyncio.to_thread(gate.until_entered, 1)
    one, *others = harness.submit(*[lambda: begun.append("late")] * 4)
    assert harness.hands.drop(one)
    assert not harness.hands.drop(one)
    assert list(harness.hands.take_back()) == others
    assert list(harness.hands.take_back()) == []
    gate.open()
    await harness.until(holding)
    await harness.until(harness.submit(nothing))
    assert begun == []


async def test_work_aside_that_was_cancelled_before_its_turn_is_never_begun() -> None:
    hands, gate, begun = Harness(1).hands, Gate(), list[str]()
    async with create_task_group() as tasks:
        tasks.start_soon(hands.aside, gate)
        tasks.start_soon(hands.aside, gate)
        await asyncio.to_thread(gate.until_entered, 1)
        with move_on_after(0.01) as scope:
            await hands.aside(lambda: begun.append("late"))
        gate.open()
    assert scope.cancelled_caught
    await hands.aside(nothing)
    assert begun == []


async def test_work_that_has_ended_can_not_be_dropped_and_is_told_of() -> None:
    harness, gate = Harness(1), Gate()
    gate.open()
    [piece] = harness.submit(gate)
    while not piece.ended:  # the loop isn't given the time to be told
        pass
    assert not harness.hands.drop(piece)
    assert harness.ended == []
    await harness.until([piece])


async def test_a_thread_that_has_ended_for_want_of_work_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.runtime.thread_pool._IDLE_S", 0.001)
    harness = Harness(2, name="test-idle")
    for number in range(50):
        await harness.until(harness.submit(nothing))
        if number % 10 == 0:
            await asyncio.to_thread(_until_none_is_left, "test-idle")


def _until_none_is_left(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


async def test_work_aside_can_be_cancelled_from_a_task_group() -> None:
    hands, gate = Harness(1).hands, Gate()
    async with create_task_group() as tasks:
        tasks.start_soon(hands.aside, gate)
        await asyncio.to_thread(gate.until_entered, 1)
        tasks.cancel_scope.cancel()
    gate.open()
