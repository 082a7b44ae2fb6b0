"""Compare the wheel, heapq and call_later: ns and bytes per timer, and the garbage collector's longest pause.

Delays are uniform within ten minutes. One timer in five is moved, and another one in five is cancelled. All timers that
aren't cancelled expire on a virtual clock. Keys and due times are made before the measurement.
"""

import asyncio
import gc
import heapq
import random
import time
import tracemalloc
from collections.abc import Callable
from typing import Protocol

from reactor.core.timer_wheel import TimerWheel
from reactor.runtime.clock import TICKS_PER_S

from .report import Report
from .server import BenchServer

_CASE = "wheel"
_SPAN_TICKS = 600 * TICKS_PER_S
_STEP_TICKS = TICKS_PER_S // 100


class Timers(Protocol):
    """The operations that are measured."""

    def arm(self, key: int, due: int) -> object: ...
    def cancel(self, key: int) -> object: ...
    def advance(self, now: int) -> int:
        """Move the clock to `now`; return how many timers expired."""


class Heap:
    """A heapq of (due, key). Old entries of cancelled and moved timers are skipped when they become due."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self._due: dict[int, int] = {}

    def arm(self, key: int, due: int) -> None:
        self._due[key] = due
        heapq.heappush(self._heap, (due, key))

    def cancel(self, key: int) -> None:
        del self._due[key]

    def advance(self, now: int) -> int:
        fired, heap, due_of = 0, self._heap, self._due
        while heap and heap[0][0] <= now:
            due, key = heapq.heappop(heap)
            if due_of.get(key) == due:
                del due_of[key]
                fired += 1
        return fired


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, timers: "CallLater") -> None:
        self._timers = timers
        super().__init__()

    def time(self) -> float:
        return self._timers.now


class CallLater:
    """An event loop's timers on a virtual clock, with a dictionary of handles."""

    def __init__(self) -> None:
        self.now = 0.0
        self._fired = 0
        self._loop = _VirtualLoop(self)
        self._handles: dict[int, asyncio.TimerHandle] = {}

    def arm(self, key: int, due: int) -> None:
        if (before := self._handles.get(key)) is not None:
            before.cancel()
        self._handles[key] = self._loop.call_at(due, self._fire, key)

    def cancel(self, key: int) -> None:
        self._handles.pop(key).cancel()

    def _fire(self, key: int) -> None:
        del self._handles[key]
        self._fired += 1

    def advance(self, now: int) -> int:
        self.now, before = float(now), self._fired
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()
        return self._fired - before


class TheWheel:
    """The reactor's timer wheel."""

    def __init__(self) -> None:
        self._wheel: TimerWheel[int] = TimerWheel()

    def arm(self, key: int, due: int) -> None:
        self._wheel.arm(key, due)

    def cancel(self, key: int) -> None:
        self._wheel.cancel(key)

    def advance(self, now: int) -> int:
        return len(self._wheel.pop(now))


def timers(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Arm, move, cancel and expire 10 000 and 1 000 000 timers of the wheel, heapq and call_later."""
    counts = (10_000, 100_000) if bench.quick else (10_000, 1_000_000)
    for _ in range(repeats):
        for count in counts:
            for name, make in (("heapq", Heap), ("call_later", CallLater), ("wheel", TheWheel)):
                report.add(_CASE, f"{name}, {count:,}", **_time(make, count))
    for count in counts:
        for name, make in (("heapq", Heap), ("call_later", CallLater), ("wheel", TheWheel)):
            report.add(_CASE, f"{name}, {count:,}", **_weigh(make, count))
    many = counts[-1]
    ours = f"wheel, {many:,}"
    for other, bound in (("heapq", 0.35), ("call_later", 0.2)):
        ratio = report.ratio(_CASE, "arm_and_expire_ns", ours, f"{other}, {many:,}")
        report.goal(_CASE, f"arm + expire of {other}'s at {many:,}", ratio, at_most=bound)
    report.goal(_CASE, "bytes a timer beside its key", report.median(_CASE, "bytes", ours), at_most=150)
    left = report.median(_CASE, "left_when_cancelled", ours)
    report.goal(_CASE, "part of memory left once cancelled", left, at_most=0.1)
    report.goal(_CASE, "longest pause of the collector, ms", report.median(_CASE, "longest_gc_ms", ours), at_most=5)
    return f"heapq, {many:,}"


def _times(count: int) -> tuple[list[int], list[int]]:
    chance = random.Random(count)
    keys = [chance.getrandbits(62) for _ in range(count)]
    return keys, [1 + chance.randrange(_SPAN_TICKS) for _ in range(count)]


def _time(make: Callable[[], Timers], count: int) -> dict[str, float]:
    keys, due = _times(count)
    later = [1 + tick // 2 for tick in due]
    gc.collect()
    pauses: list[float] = []
    watch = _pauses(pauses)
    gc.callbacks.append(watch)
    try:
        subject = make()
        arm_ns = _each_ns(subject.arm, keys, due)
        fifth = count // 5
        move_ns = _each_ns(subject.arm, keys[:fifth], later[:fifth])
        cancel_ns = _each_ns(subject.cancel, keys[-fifth:])
        began, fired = time.perf_counter_ns(), 0
        for now in range(0, _SPAN_TICKS + _STEP_TICKS, _STEP_TICKS):
            fired += subject.advance(now)
        expire_ns = (time.perf_counter_ns() - began) / fired
    finally:
        gc.callbacks.remove(watch)
    assert fired == count - fifth
    return {
        "arm_ns": arm_ns,
        "move_ns": move_ns,
        "cancel_ns": cancel_ns,
        "expire_ns": expire_ns,
        "arm_and_expire_ns": arm_ns + expire_ns,
        "longest_gc_ms": 1000 * max(pauses, default=0.0),
    }


def _each_ns(act: Callable[..., object], *arguments: list[int]) -> float:
    began = time.perf_counter_ns()
    for given in zip(*arguments, strict=True):
        act(*given)
    return (time.perf_counter_ns() - began) / len(arguments[0])


def _pauses(pauses: list[float]) -> Callable[[str, dict[str, int]], None]:
    began = 0.0

    def watch(phase: str, _info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        else:
            pauses.append(time.perf_counter() - began)

    return watch


def _weigh(make: Callable[[], Timers], count: int) -> dict[str, float]:
    keys, due = _times(count)
    tracemalloc.start()
    try:
        subject = make()
        before = tracemalloc.get_traced_memory()[0]
        for key, tick in zip(keys, due, strict=True):
            subject.arm(key, tick)
        armed = tracemalloc.get_traced_memory()[0] - before
        for key in keys:
            subject.cancel(key)
        left = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    return {"bytes": armed / count, "left_when_cancelled": max(0.0, left / armed)}
