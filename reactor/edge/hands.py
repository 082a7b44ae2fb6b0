"""Threads for work that blocks, made for much that is short: what comes in together is done together.

A thread to each piece of work costs more than a short piece does: one is to be woken, and the loop again as it ends.
So a thread goes on for as long as there is work, and the loop is told at once of all that has ended meanwhile. Only
work that has waited for a moment while nothing short ended wakes another thread, for then the others are held up: a
slow store has all the threads it may have within a few moments, a quick one keeps one of them busy.

The interpreter runs one thread at a time, and hands over at every system call that another waits to follow. So a
thread with much short work and the loop take turns: it works for a moment, tells the loop, and goes on when the loop
has seen to that. Side by side the two took 400 µs of the processor's time an upload, by turns 330, in one thread 220.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define

T = TypeVar("T")

_PATIENCE_S = 0.001
"""How long work may wait before more threads are woken."""

_SHORT_S = 0.0005
"""Work that took less is short."""

_TURN_S = 0.002
"""How long a thread goes on with short work before the loop has its turn."""

_LOOPS_TURN_S = 0.1
"""How long the loop has its turn at most."""

_IDLE_S = 10.0
"""After how long without work a thread ends."""


@define(eq=False)
class _Job:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
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
        self._ended_short = False
        """Whether the work that ended last was short; False as well when none has ended since the last look."""
        self._seen = threading.Event()
        """Set when the loop has seen to what it was told of last."""

        # Invariant: these are changed under the lock alone. A thread is at work, asleep, or at work that was abandoned.
        self._lock = threading.Lock()
        self._at_work = 0
        self._asleep = 0
        self._calls = threading.Semaphore(0)

    async def do(self, work: Callable[[], T]) -> T:
        """Do the work in a thread and return what it returns. Cancelled, it isn't begun; if it was, it is abandoned.

        Abandoned work goes on and nobody hears of it; its thread isn't counted any more.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop.create_future(), loop)
        self._jobs.append(job)
        with self._lock:
            if not self._at_work:
                self._wake_one()
        if not self._is_watched:
            self._is_watched = True
            loop.call_later(_PATIENCE_S, self._look, loop)
        try:
            result: T = await job.future
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        return result

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Double the threads when work has waited for what isn't short; look again for as long as there is any."""
        if self._jobs:
            if not self._ended_short:
                self._tell(loop)  # a thread may have ended short work, and then begun what isn't
                with self._lock:
                    for _ in range(min(len(self._jobs), max(1, self._at_work))):
                        self._wake_one()
            elif self._seen.is_set():  # else a thread waits for its turn
                self._ended_short = False
            loop.call_later(_PATIENCE_S, self._look, loop)
        else:
            self._tell(loop)  # as above
            self._is_watched = False

    def _wake_one(self) -> None:
        if self._at_work >= self._count:
            return
        self._at_work += 1
        if self._asleep:
            self._asleep -= 1
            self._calls.release()
        else:
            # a daemon: a put that hangs must not keep the process from ending
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if job.is_begun and not job.is_ended:
                job.is_ended = True
                self._at_work -= 1
                if self._jobs:
                    self._wake_one()

    def _work(self) -> None:
        loop, turn_ends_at = None, 0.0
        while True:
            if (job := self._next()) is None:
                self._call(loop)
                if self._sleep():
                    continue
                return
            result, error = None, None
            began = time.monotonic()
            try:
                result = job.work()
            except BaseException as caught:  # noqa: BLE001  # whoever waits for it raises it
                error = caught
            ended = time.monotonic()
            with self._lock:
                if job.is_ended:
                    return  # it was abandoned; another thread has taken this one's place
                job.is_ended = True
            self._ended.append((job.future, result, error))
            loop = job.loop
            del job, result, error  # nothing of it outlives it while the thread sleeps
            self._ended_short = is_short = ended - began < _SHORT_S
            if is_short and began < turn_ends_at and self._jobs:
                continue
            self._call(loop)
            if is_short and self._jobs:
                self._seen.wait(_LOOPS_TURN_S)
            turn_ends_at = time.monotonic() + _TURN_S

    def _call(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """See to it that the loop hears of all that has ended."""
        if loop is not None and self._ended and not self._is_told:
            self._is_told = True
            self._seen.clear()
            try:
                loop.call_soon_threadsafe(self._tell, loop)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._ended.clear()
                self._is_told = False

    def _next(self) -> _Job | None:
        """Return work that is now begun; None when there is none."""
        with self._lock:
            while self._jobs:
                job = self._jobs.popleft()
                if not job.future.cancelled():
                    job.is_begun = True
                    return job
            self._at_work -= 1
            self._asleep += 1
        return None

    def _sleep(self) -> bool:
        """Sleep until called; False when the thread is to end."""
        if not self._calls.acquire(timeout=_IDLE_S):
            with self._lock:
                if not self._calls.acquire(blocking=False):  # called as it gave up waiting
                    self._asleep -= 1
                    return False
        return True

    def _tell(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_told = False  # first: what ends from now on is told of by another call
        loop.call_soon(self._seen.set)  # after those whom it wakes
        while self._ended:
            future, result, error = self._ended.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
