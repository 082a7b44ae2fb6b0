"""Threads for work that blocks, made for much that is short: what comes in together is done together.

A thread to each piece of work costs more than a short piece does: one is to be woken, and the loop again as it ends.
So a thread goes on for as long as there is work, and the loop is told at once of all that has ended meanwhile; it
looks each moment as well, so that nothing that has ended waits behind what blocks. Only where work waits for work that
takes long another thread is woken: a slow store has all the threads it may have within a few moments, a quick one keeps
one of them busy. More would only wait for the interpreter, at every system call.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

from attrs import define

T = TypeVar("T")

_PATIENCE_S = 0.001
"""How long work may wait before the loop looks why."""

_SHORT_S = 0.00025
"""Work that takes no longer is quicker done by one thread than by two, which would wait for each other."""

_MOST_LATE = 8
"""How often in a row a look may come late and be told nothing by."""

_IDLE_S = 10.0
"""After how long without work a thread ends."""


@define(eq=False)
class _Job:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    is_aside: bool
    is_begun: bool = False
    is_ended: bool = False


class Hands:
    """Threads, made as they are needed: at most `count` of them do work that somebody waits for."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: deque[_Job] = deque()
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_told = False
        self._is_watched = False
        self._look_at = 0.0
        self._quickest_s = math.inf
        self._slow_looks = 0
        self._late_looks = 0

        # Invariant: these are changed under the lock alone. A thread is at work, asleep, or at work that was abandoned.
        self._lock = threading.Lock()
        self._at_work = 0
        self._asleep = 0
        self._calls = threading.Semaphore(0)

    async def do(self, work: Callable[[], T], *, aside: bool = False) -> T:
        """Do the work in a thread and return what it returns. Cancelled, it isn't begun; if it was, it is abandoned.

        Abandoned work goes on and nobody hears of it; its thread isn't counted any more. Work `aside` is short, goes
        before all that waits, and has a thread more than the others may have where they are all slow.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future(), loop, aside)
        if aside:
            self._jobs.appendleft(job)
        else:
            self._jobs.append(job)
        with self._lock:
            if not self._at_work:
                self._wake_one()
        if not self._is_watched:
            self._is_watched = True
            self._watch(loop)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        return result

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quickest_s = math.inf
        self._look_at = loop.time() + _PATIENCE_S
        loop.call_at(self._look_at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Double the threads when work has waited for long work; look again for as long as any waits."""
        if self._jobs:
            if loop.time() > self._look_at + _PATIENCE_S and self._late_looks < _MOST_LATE:
                self._late_looks += 1  # this loop kept the interpreter to itself: that says nothing of the work
            else:
                self._late_looks = 0
                self._slow_looks = self._slow_looks + 1 if self._quickest_s > _SHORT_S else 0
            if self._slow_looks > 1:
                with self._lock:
                    for _ in range(min(len(self._jobs), max(1, self._at_work))):
                        self._wake_one()
            self._watch(loop)
        else:
            self._slow_looks = 0
            self._is_watched = False
        self._tell()  # last: who sees no work waiting any more tells by itself

    def _wake_one(self) -> None:
        if not self._may_go_on(self._at_work + 1):
            return
        self._at_work += 1
        if self._asleep:
            self._asleep -= 1
            self._calls.release()
        else:
            # a daemon: a put that hangs must not keep the process from ending
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _may_go_on(self, at_work: int) -> bool:
        """Return whether so many threads may be at work on what waits."""
        return at_work <= self._count or (at_work == self._count + 1 and bool(self._jobs) and self._jobs[0].is_aside)

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if job.is_begun and not job.is_ended:
                job.is_ended = True
                self._at_work -= 1
                if self._jobs:
                    self._wake_one()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            result, error, began = None, None, perf_counter()
            try:
                result = job.work()
            except BaseException as caught:  # noqa: BLE001  # whoever waits for it raises it
                error = caught
            with self._lock:
                if job.is_ended:
                    return  # it was abandoned; another thread has taken this one's place
                job.is_ended = True
            self._quickest_s = min(self._quickest_s, perf_counter() - began)
            self._ended.append((job.future, result, error))
            loop = job.loop
            del job, result, error  # nothing of it outlives it while the thread sleeps
            if not self._jobs and not self._is_told:
                self._is_told = True
                try:
                    loop.call_soon_threadsafe(self._tell)
                except RuntimeError:  # the loop is closed: nobody waits any more
                    self._ended.clear()
                    self._is_told = False

    def _next(self) -> _Job | None:
        """Return work that is now begun; None when the thread is to end."""
        while True:
            with self._lock:
                while self._jobs and self._may_go_on(self._at_work):
                    job = self._jobs.popleft()
                    if not job.future.cancelled():
                        job.is_begun = True
                        return job
                self._at_work -= 1
                self._asleep += 1
            if not self._calls.acquire(timeout=_IDLE_S):
                with self._lock:
                    if not self._calls.acquire(blocking=False):  # called as it gave up waiting
                        self._asleep -= 1
                        return None

    def _tell(self) -> None:
        self._is_told = False  # first: what ends from now on is told of by another call
        while self._ended:
            future, result, error = self._ended.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
