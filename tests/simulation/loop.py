"""An event loop without a real clock, sockets or threads. Time jumps to the next timer; callbacks run in random order.

Every task belongs to a node, which is a simulated process. A task's children belong to the same node. A frozen node
(SIGSTOP) keeps its ready callbacks until it resumes. A killed node (SIGKILL) never runs a callback or a `finally`.
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
"""Maximum number of loop iterations without a change of the time. More iterations mean that a task spins."""


class Node:
    """A simulated process, which can be frozen or killed at any await."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.is_frozen = False
        self.is_dead = False
        self._loop = loop
        self._parked: list[asyncio.Handle] = []

    def start(self, main: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `main` and all tasks that it starts as this node."""
        context = contextvars.copy_context()
        context.run(_NODE.set, self)
        return self._loop.create_task(main(), context=context)

    def parks(self, handle: asyncio.Handle) -> bool:
        """Keep a callback and return True if this node is frozen or dead; else return False."""
        if self.is_frozen or self.is_dead:
            # keep a dead node's callbacks too: garbage collection would run the `finally` of their coroutines
            self._parked.append(handle)
            return True
        return False

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        """Resume the node. All callbacks that it has kept are ready now."""
        self.is_frozen = False
        self._loop.requeue_handles(self._parked)
        self._parked = []

    def kill(self) -> None:
        self.is_dead = True

    def finish(self) -> None:
        """Let the remaining callbacks of a killed node run, after the simulation has ended."""
        self.is_dead = False
        self.thaw()


class _Task(asyncio.Task[Any]):
    """A task whose hash is the same in each run, because anyio keeps tasks in sets."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int, **kwargs: Any) -> None:
        self._number = number
        super().__init__(coroutine, **kwargs)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop of one simulation. The same seed gives the same run."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._now = 1_000.0
        self._turns = 0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_numbers = count(1)
        self._tasks = count(1)
        self.unhandled_errors: list[str] = []
        """Errors of callbacks, and of tasks that no task awaited."""
        self.set_exception_handler(self._record_error)
        self.set_task_factory(self._make_task)

    def _make_task(self, _: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        return _Task(coroutine, next(self._tasks), loop=self, **kwargs)

    def _record_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.unhandled_errors.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self._now

    def requeue_handles(self, handles: list[asyncio.Handle]) -> None:
        self._ready.extend(handles)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: `_run_once` drops cancelled timers."""

    def _run_once(self) -> None:
        """Advance to the next timer if nothing is ready; then run all ready callbacks in random order."""
        timers, ready = self._timers, self._ready
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise AssertionError(f"at {self._now:.3f} all tasks wait and no timer is set, which is a deadlock")
            self._now = max(self._now, timers[0][0])
            self._turns = 0
        self._turns += 1
        if self._turns > _TURNS_WITHOUT_TIME:
            raise AssertionError(f"at {self._now:.3f} a task spins: {list(ready)[:5]}")
        while timers and timers[0][0] <= self._now:
            ready.append(heapq.heappop(timers)[2])
        handles = list(ready)
        ready.clear()
        if len(handles) > 1:
            self._random.shuffle(handles)
        for handle in handles:
            if not handle.cancelled():
                node = handle._context.get(_NODE)  # type: ignore[attr-defined]
                if node is None or not node.parks(handle):
                    handle._run()

    def _write_to_self(self) -> None:
        """Do nothing: this loop never sleeps in a selector."""


class _Scope(backend.CancelScope):
    """A scope whose hash is the same in each run, because anyio keeps scopes in sets."""

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
    """Yield a loop and close it at the end of the block. Within the block, anyio's cancel scopes have numbers."""
    _Scope.numbers = count(1)
    loop = VirtualLoop(seed)
    with patch.object(backend, "CancelScope", _Scope):
        try:
            yield loop
        finally:
            loop.close()
