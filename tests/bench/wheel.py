"""What a timer costs in the wheel, beside the same timers in heapq and in asyncio's call_later.

    python tests/bench/wheel.py [--timers 10000 1000000] [--repeats 3] [--keys int signal]

The same keys in the same order, due at the same ticks, chosen at random over fifteen minutes of a virtual clock. It
stops at every tenth millisecond at which something is due, as a busy loop would; wheel and heaps are asked for what
is next each time. The structures take turns. Four kinds of work, in ns of CPU a timer: arm all;
expire all; move a fifth of the keys to another tick; cancel all, in random order. Two heaps: one with the dictionary
that moving and cancelling take (`heapq`), and one that can only push and pop (`plain heapq`). `call_later` has the
dictionary of handles that it needs for the same.

Bytes a timer are beside its key, and count the int of its tick. "Kept" is what is left once all are cancelled. Pauses
are the garbage collector's, of a structure that is filled and emptied by expiry; the keys are frozen: they aren't
what is measured.
"""

import argparse
import asyncio
import gc
import json
import random
import statistics
import sys
import time
import tracemalloc
from array import array
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from attrs import asdict, define, frozen

from reactor.core.model import Signal
from reactor.core.timer_wheel import TimerWheel
from reactor.runtime.clock import TICKS_PER_S

_START: Final = 400_000_000
_SPAN: Final = 900 * TICKS_PER_S
_STEP: Final = TICKS_PER_S // 100
_BY_DEFAULT: Final = (700, 10, 10)
"""When Python's collector comes by, unless other cases have set it otherwise."""


class Timers(Protocol):
    """What can be asked of each of them."""

    def arm(self, key: Hashable, due: int) -> None: ...

    def cancel(self, key: Hashable) -> bool: ...

    def pop(self, now: int) -> list[Any]: ...

    def next_due(self) -> int | None: ...


class Heap:
    """Python's heap, with a dictionary that says which of its entries still hold."""

    movable = True

    def __init__(self, _now: int) -> None:
        self._due: dict[Hashable, int] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._armed = 0

    def arm(self, key: Hashable, due: int) -> None:
        self._due[key] = due
        self._armed += 1  # keys that are due together needn't be comparable
        heappush(self._heap, (due, self._armed, key))

    def cancel(self, key: Hashable) -> bool:
        return self._due.pop(key, None) is not None

    def pop(self, now: int) -> list[Hashable]:
        popped = []
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                popped.append(key)
        return popped

    def next_due(self) -> int | None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None


class PlainHeap:
    """Python's heap, and nothing else."""

    movable = False

    def __init__(self, _now: int) -> None:
        self._heap: list[tuple[int, Hashable]] = []

    def arm(self, key: Hashable, due: int) -> None:
        heappush(self._heap, (due, key))

    def cancel(self, key: Hashable) -> bool:
        raise NotImplementedError

    def pop(self, now: int) -> list[Hashable]:
        popped = []
        while self._heap and self._heap[0][0] <= now:
            popped.append(heappop(self._heap)[1])
        return popped

    def next_due(self) -> int | None:
        return self._heap[0][0] if self._heap else None


class _VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock that stands still."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s


class CallLater:
    """asyncio's timers, with a dictionary of handles."""

    movable = True

    def __init__(self, now: int) -> None:
        self._loop = _VirtualLoop()
        self._loop.now_s = now / TICKS_PER_S
        self._now = now
        self._handles: dict[Hashable, asyncio.TimerHandle] = {}
        self._popped: list[Hashable] = []

    def __del__(self) -> None:
        self._loop.close()

    def arm(self, key: Hashable, due: int) -> None:
        if (handle := self._handles.get(key)) is not None:
            handle.cancel()
        self._handles[key] = self._loop.call_later((due - self._now) / TICKS_PER_S, self._fire, key)

    def cancel(self, key: Hashable) -> bool:
        if (handle := self._handles.pop(key, None)) is None:
            return False
        handle.cancel()
        return True

    def pop(self, now: int) -> list[Hashable]:
        self._now = now
        self._loop.now_s = now / TICKS_PER_S
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()  # one turn
        popped, self._popped = self._popped, []
        return popped

    def next_due(self) -> int | None:
        """Leave it to the loop, which looks for itself."""
        return None

    def _fire(self, key: Hashable) -> None:
        del self._handles[key]
        self._popped.append(key)


CONTENDERS: Final[dict[str, Callable[[int], Timers]]] = {
    "wheel": TimerWheel, "heapq": Heap, "plain heapq": PlainHeap, "call_later": CallLater,
}  # fmt: skip


@frozen(kw_only=True)
class Cost:
    """What one structure took; ns of CPU and bytes are a timer's."""

    arm_ns: float
    expire_ns: float
    move_ns: float | None
    cancel_ns: float | None
    held_bytes: float | None
    kept_bytes: float | None
    longest_gc_pause_ms: float
    full_collections: int


@define
class _Work:
    """Which timers are armed, moved and cancelled, and when the clock stops."""

    keys: Sequence[Hashable]
    dues: Sequence[int]
    stops: Sequence[int]
    moved: Sequence[tuple[Hashable, int]]
    cancelled: Sequence[Hashable]


def _prepare(timers: int, kind: str, seed: int) -> _Work:
    rng = random.Random(seed)
    keys: list[Hashable] = [*range(1_000_000, 1_000_000 + timers)]
    if kind == "signal":
        keys = [Signal("uploads", rng.getrandbits(128), rng.getrandbits(31)) for _ in keys]

    def due() -> int:
        return _START + rng.randrange(1, _SPAN)

    dues = array("q", (due() for _ in keys))  # not a list: an int is made for each timer, as its caller would
    return _Work(
        keys=keys,
        dues=dues,
        stops=sorted({-(-tick // _STEP) * _STEP for tick in dues}),
        moved=[(key, due()) for key in rng.sample(keys, timers // 5)],
        cancelled=rng.sample(keys, timers),
    )


class _Collections:
    """Listens to the garbage collector."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.full = 0
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.process_time()
            return
        self.longest_s = max(self.longest_s, time.process_time() - self._began)
        self.full += info["generation"] == 2


@contextmanager
def _listening() -> Iterator[_Collections]:
    gc.collect()
    gc.freeze()
    before = gc.get_threshold()
    gc.set_threshold(*_BY_DEFAULT)
    collections = _Collections()
    gc.callbacks.append(collections)
    try:
        yield collections
    finally:
        gc.callbacks.remove(collections)
        gc.set_threshold(*before)
        gc.unfreeze()


def _timed_ns(run: Callable[[], object], timers: int) -> float:
    began = time.process_time_ns()
    run()
    return (time.process_time_ns() - began) / timers


def _fill(timers: Timers, work: _Work) -> None:
    for key, due in zip(work.keys, work.dues, strict=True):
        timers.arm(key, due)


def _expire(timers: Timers, work: _Work) -> None:
    popped = 0
    for now in work.stops:
        timers.next_due()
        popped += len(timers.pop(now))
    if popped != len(work.keys):
        raise AssertionError(f"{popped} of {len(work.keys)} timers came")


def _move(timers: Timers, work: _Work) -> None:
    for key, due in work.moved:
        timers.arm(key, due)


def _cancel(timers: Timers, work: _Work) -> None:
    for key in work.cancelled:
        timers.cancel(key)


def _traced(make: Callable[[int], Timers], work: _Work, *, movable: bool) -> tuple[float, float | None]:
    """Return the bytes a timer holds, and those kept once all are cancelled."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    timers = make(_START)
    _fill(timers, work)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    kept = None
    if movable:
        _cancel(timers, work)
        gc.collect()
        kept = (tracemalloc.get_traced_memory()[0] - before) / len(work.keys)
    tracemalloc.stop()
    return held / len(work.keys), kept


def _measure(make: Callable[[int], Timers], work: _Work, *, traced: bool) -> Cost:
    movable = getattr(make, "movable", True)
    count = len(work.keys)
    with _listening() as collections:
        timers = make(_START)
        arm_ns = _timed_ns(lambda: _fill(timers, work), count)
        expire_ns = _timed_ns(lambda: _expire(timers, work), count)
    move_ns = cancel_ns = None
    if movable:
        timers = make(_START)
        _fill(timers, work)
        move_ns = _timed_ns(lambda: _move(timers, work), len(work.moved))
        cancel_ns = _timed_ns(lambda: _cancel(timers, work), count)
    held, kept = _traced(make, work, movable=movable) if traced else (None, None)
    return Cost(
        arm_ns=arm_ns, expire_ns=expire_ns, move_ns=move_ns, cancel_ns=cancel_ns, held_bytes=held, kept_bytes=kept,
        longest_gc_pause_ms=1000 * collections.longest_s, full_collections=collections.full,
    )  # fmt: skip


def _middle(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.median(numbers) if numbers else None


def measure(timers: int, repeats: int, kind: str = "int") -> dict[str, Any]:
    """Return medians by structure, and the wheel's arm and expire together as a ratio of each other's, by repeat.

    `kind` of key is "int" or "signal". The longest pause is the longest of all repeats.
    """
    rounds: list[dict[str, Cost]] = []
    for seed in range(repeats):
        work = _prepare(timers, kind, seed)
        # bytes hardly differ from one repeat to the next, and tracing is slow
        rounds.append({name: _measure(make, work, traced=seed == 0) for name, make in CONTENDERS.items()})
    costs: dict[str, dict[str, float | None]] = {}
    for name in CONTENDERS:
        runs = [asdict(costs[name]) for costs in rounds]
        costs[name] = {what: _middle([run[what] for run in runs]) for what in runs[0]}
        costs[name]["longest_gc_pause_ms"] = max(run["longest_gc_pause_ms"] for run in runs)
    both = [{name: cost.arm_ns + cost.expire_ns for name, cost in costs.items()} for costs in rounds]
    ratios = {name: [run["wheel"] / run[name] for run in both] for name in CONTENDERS if name != "wheel"}
    return {"timers": timers, "keys": kind, "costs": costs, "ratios": ratios}


def _table(result: dict[str, Any]) -> str:
    heads = ("arm ns", "expire ns", "move ns", "cancel ns", "bytes", "kept", "pause ms", "full gc")
    lines = [f"{result['timers']} timers, keys: {result['keys']}; medians"]
    lines.append(" " * 12 + "".join(f"{head:>10}" for head in heads))
    for name, cost in result["costs"].items():
        figures = ("-" if value is None else f"{value:.1f}" for value in cost.values())
        lines.append(f"{name:12}" + "".join(f"{figure:>10}" for figure in figures))
    for name, ratios in result["ratios"].items():
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        lines.append(f"arm + expire / {name + ':':12} {middle:.3f} ({low:.3f}..{high:.3f})")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="What a timer costs in the wheel, in heapq and in call_later.")
    parser.add_argument("--timers", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keys", nargs="+", choices=["int", "signal"], default=["int", "signal"])
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    asked = parser.parse_args(arguments)
    results = []
    for kind in asked.keys:
        for timers in asked.timers:
            results.append(measure(timers, asked.repeats, kind))
            if not asked.json:
                _say(_table(results[-1]))
    if asked.json:
        _say(json.dumps(results, indent=2))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  # a benchmark's output


if __name__ == "__main__":
    main(sys.argv[1:])
