"""An event loop without a clock, sockets or threads: time jumps to the next timer, and chance decides who goes first.

Every task belongs to a node: a process of the simulated world, inherited by the tasks that it starts. A node can be
frozen, as SIGSTOP does it, or killed, as SIGKILL does: what is ready in it waits, or never happens, and no `finally`
runs.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Self
from unittest.mock import patch

from anyio._backends import _asyncio as backend

_NODE: contextvars.ContextVar["Node | None"] = contextvars.ContextVar("node", default=None)

_TURNS_WITHOUT_TIME = 20_000
"""Turns of the loop at one moment after which somebody must be waiting by spinning."""


class Node:
    """A process: what runs in it can be stopped at any await."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.is_frozen = False
        self.is_dead = False
        self._loop = loop
        self._parked: list[asyncio.Handle] = []

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `main`, and all that it starts, as this node."""
        context = contextvars.copy_context()
        context.run(_NODE.set, self)
        return self._loop.create_task(main(), context=context)

    def holds(self, handle: asyncio.Handle) -> bool:
        """Return whether a callback of this node can't run now; it is kept until it can."""
        if self.is_frozen or self.is_dead:
            # the dead's as well: a coroutine that is collected would run its `finally`
            self._parked.append(handle)
            return True
        return False

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        """Go on; what came due meanwhile is due now, all of it at once."""
        self.is_frozen = False
        self._loop.put_back(self._parked)
        self._parked = []

    def kill(self) -> None:
        self.is_dead = True

    def bury(self) -> None:
        """Let what is left of it run to its end; for when the world is over."""
        self.is_dead = False
        self.thaw()


class _Task(asyncio.Task[Any]):
    """A task whose hash is the same in each run, for anyio keeps tasks in sets."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int, **kwargs: Any) -> None:
        self._number = number
        super().__init__(coroutine, **kwargs)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs one simulation; the same seed gives the same run."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._now = 1_000.0
        self._turns = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_numbers = count(1)
        self._tasks = count(1)
        self.crashed: list[str] = []
        """What tasks and callbacks died of that nobody looked at."""
        self.set_exception_handler(self._crash)
        self.set_task_factory(self._make_task)

    def _make_task(self, _: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return _Task(coroutine, next(self._tasks), loop=self, **kwargs)

    def _crash(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.crashed.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self._now

    def put_back(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is dropped as its time comes."""

    def _run_once(self) -> None:
        """Let time pass to the next timer if nothing is ready; then run what is ready, in an order of chance."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise AssertionError(f"at {self._now:.3f} everything waits for something that can't come")
            self._now = max(self._now, timers[0][0])
            self._turns = 0
        self._turns += 1
        if self._turns > _TURNS_WITHOUT_TIME:
            raise AssertionError(f"at {self._now:.3f} somebody spins: {list(ready)[:5]}")
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        handles = list(ready)
        ready.clear()
        if len(handles) > 1:
            self._random.shuffle(handles)
        for handle in handles:
            if not handle.cancelled():
                node = handle._context.get(_NODE)  # type: ignore[attr-defined]
                if node is None or not node.holds(handle):
                    handle._run()

    def _write_to_self(self) -> None:
        """Nobody is ever asleep."""


class _Scope(backend.CancelScope):
    """A scope whose hash is the same in each run, for anyio keeps scopes in sets."""

    __slots__ = ("_number",)
    _number: int
    numbers = count(1)

    def __new__(cls, *_: Any, **__: Any) -> Self:
        scope = object.__new__(cls)
        scope._number = next(cls.numbers)
        return scope

    def __hash__(self) -> int:
        return self._number


@contextmanager
def virtual_loop(seed: int) -> Iterator[VirtualLoop]:
    """Make a loop; while it is used, anyio's scopes are numbered."""
    _Scope.numbers = count(1)
    loop = VirtualLoop(seed)
    with patch.object(backend, "CancelScope", _Scope):
        try:
            yield loop
        finally:
            loop.close()
