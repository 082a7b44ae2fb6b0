"""Threads for work that blocks, made for much that is short: what comes in together is done together.

A thread to each piece of work costs more than a short piece does: one is to be woken, and the loop again as it ends.
So all work that there is waits where the threads are. A thread goes on from one piece to the next for as long as there
is any, and the loop is told at once of all that has begun and ended meanwhile; it looks each moment as well, so that
nothing that has ended waits behind what blocks. Only where work waits for work that takes long another thread is woken:
a slow store has all the threads it may have within a few moments, a quick one keeps one of them busy. More would only
wait for the interpreter, at every system call. How many it takes is remembered, and half of it forgotten by each look
that finds work short, or none waiting.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

from attrs import define

from reactor.core.fair_queue import FairQueue
from reactor.runtime.executor import J, Job, Told

_PATIENCE_S = 0.001
"""How long work may wait before the loop looks why, and how long the loop makes way for work that seems long."""

_WAY_S = 0.003
"""How long the loop makes way for short work: longer is slower for whoever waits for the loop, and no quicker."""

_SHORT_S = 0.00025
"""What takes no longer is quicker done by one thread than by two, which would wait for each other."""

_SURE = 4
"""So many looks in a row must find work slow: a thread may be without a processor for a moment."""

_IDLE_S = 10.0
"""After how long without work a thread ends."""


T = TypeVar("T")


@define(kw_only=True, eq=False)
class _Errand(Job):
    """Work that somebody waits for in a coroutine."""

    work: Callable[[], Any]
    parts: int
    future: asyncio.Future[Any]


class Hands(Generic[J]):
    """Threads, made as they are needed: at most `count` of them do the work of jobs, `per_tenant` that of one tenant.

    An `Executor`, all of it called in one loop.
    """

    def __init__(self, work: Callable[[J], Any], count: int, *, per_tenant: int | None = None, name: str) -> None:
        self._do = work
        self._count = count
        self._name = name
        self._told: Told = _tell_nobody
        self._loop: asyncio.AbstractEventLoop
        self._ended: deque[J | _Errand] = deque()
        self._is_called = False
        self._is_watched = False
        self._quickest_s = math.inf
        self._slow_looks = 0

        # Invariant: these are changed under the lock alone. A thread is at work, asleep, or at work that was dropped.
        # What is picked is running already: a thread is on its way to it.
        # Invariant: no more than `_limit` begin anything, and that is at most one more than `_count`.
        self._lock = threading.Lock()
        self._limit = 1
        self._waiting = FairQueue[J](per_tenant)
        self._errands: deque[_Errand] = deque()
        self._running: dict[J | _Errand, None] = {}
        self._picked: deque[J | _Errand] = deque()
        self._at_work = 0
        self._asleep = 0
        self._calls = threading.Semaphore(0)
        self._is_awaited = False
        self._rest = threading.Lock()
        self._rest.acquire()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def attend(self, told: Told) -> None:
        self._told = told

    def submit(self, jobs: Iterable[J]) -> None:
        with self._lock:
            for job in jobs:
                self._waiting.put(job)
            self._begin()
        self._tell()  # of what a thread that had nothing to do begins

    def take_back(self) -> Sequence[J]:
        with self._lock:
            return self._waiting.clear()

    def drop(self, job: J | _Errand) -> bool:
        with self._lock:
            if job in self._running:
                self._leave(job)
                self._at_work -= 1
                self._wake()
                self._loop.call_soon(self._tell)
            elif not self._withdraw(job):
                return False
        job.is_cancelled = True
        return True

    async def aside(self, work: Callable[[], T], parts: int = 1) -> T:
        """Do work of some short parts in a thread, and return what it returns.

        Cancelled, it isn't begun; if it was, it is abandoned. It goes before all jobs, and has a thread more than they
        may have where they are all slow.
        """
        errand = _Errand(work=work, parts=parts, future=asyncio.get_running_loop().create_future())
        with self._lock:
            self._errands.append(errand)
            self._begin()
        try:
            result: T = await errand.future
        except asyncio.CancelledError:
            self.drop(errand)
            raise
        return result

    def _begin(self) -> None:
        """See to it that what was just taken on is begun, and be there when it ends."""
        self._loop = asyncio.get_running_loop()
        self._wake()
        if not self._is_watched:
            self._is_watched = True
            self._loop.call_later(_PATIENCE_S, self._look)

    # the loop

    def _look(self) -> None:
        """Double the threads when work has waited for long work; look again for as long as any waits."""
        with self._lock:
            self._is_watched = bool(len(self._waiting) or self._errands)
            may_more = self._may_go_on(self._at_work + 1)
        is_short = may_more and self._give_way(_PATIENCE_S if self._slow_looks else _WAY_S) <= _SHORT_S
        self._slow_looks = self._slow_looks + 1 if may_more and not is_short else 0
        with self._lock:
            if self._slow_looks >= _SURE:
                self._limit = min(2 * self._limit, self._count + 1)
                self._wake()
            elif is_short or not self._is_watched:
                self._limit = max(1, self._limit // 2)
        if is_short:
            self._loop.call_soon(self._look)
        elif self._is_watched:
            self._loop.call_later(_PATIENCE_S, self._look)
        self._tell()  # last: who sees no work waiting any more calls by itself

    def _give_way(self, within_s: float) -> float:
        """Leave the interpreter to the threads for a moment, or until one has nothing left to do.

        Return how long the quickest part of any work took meanwhile: only so does it tell of the work. Both at once
        would be slower, too: who wants the interpreter is woken at each system call of the other.
        """
        with self._lock:
            self._quickest_s = math.inf
            self._is_awaited = True
        if not self._rest.acquire(timeout=within_s):
            with self._lock:
                if not self._is_awaited:
                    self._rest.acquire()  # let go of as we gave up waiting
                self._is_awaited = False
        return self._quickest_s

    def _wake(self) -> None:
        """Have more threads begin what waits, as many as there may be."""
        while (job := self._take(self._at_work + 1)) is not None:
            self._picked.append(job)
            self._at_work += 1
            if self._asleep:
                self._asleep -= 1
                self._calls.release()
            else:
                # a daemon: a put that hangs must not keep the process from ending
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _may_go_on(self, at_work: int) -> bool:
        """Return whether there is work for so many threads, were it slow."""
        return (at_work <= self._count + 1 and bool(self._errands)) or (
            at_work <= self._count and self._waiting.takeable
        )

    def _withdraw(self, job: J | _Errand) -> bool:
        """Let it wait no longer; return whether it did."""
        if isinstance(job, _Errand):
            waited = job in self._errands
            if waited:
                self._errands.remove(job)
            return waited
        return self._waiting.discard(job)

    def _leave(self, job: J | _Errand) -> None:
        """It isn't being worked on any more, as far as we care."""
        del self._running[job]
        if not isinstance(job, _Errand):
            self._waiting.release(job.tenant)

    def _tell(self) -> None:
        """Tell of all that has begun and ended since it was last told of."""
        self._is_called = False  # first: what ends from now on is told of by another call
        ended: list[J] = []
        while self._ended:
            job = self._ended.popleft()
            if not isinstance(job, _Errand):
                ended.append(job)
            elif not job.future.done():
                _resolve(job)
        with self._lock:
            running = [job for job in self._running if not isinstance(job, _Errand)]
        begun = [job for job in (*ended, *running) if not job.is_told]
        for job in begun:
            job.is_told = True
        if begun or ended:
            self._told(begun, ended)

    # the threads

    def _work(self) -> None:
        job = self._pick_up()
        while job is not None:
            result, error = None, None
            try:
                result = job.work() if isinstance(job, _Errand) else self._do(job)
            except BaseException as caught:  # noqa: BLE001  # whoever waits for it hears of it
                error = caught
            with self._lock:  # once, for the loop may want it too
                if not self._finish(job, result, error):
                    return  # it was dropped; another thread has taken this one's place
                job = result = error = None  # nothing of it outlives it while the thread sleeps
                job = self._next()
            if job is None:
                self._call()
                job = self._sleep()

    def _pick_up(self) -> J | _Errand | None:
        """Return what this thread was woken for; None when that was dropped, and its place is another's."""
        with self._lock:
            job = self._picked.popleft()
            return job if job in self._running else None

    def _finish(self, job: J | _Errand, result: Any, error: BaseException | None) -> bool:
        """Take in what came of a job; return whether anybody still waited for it."""
        if job not in self._running:
            return False
        self._leave(job)
        job.result, job.error, job.ended = result, error, monotonic()
        parts = job.parts if isinstance(job, _Errand) else 1
        self._quickest_s = min(self._quickest_s, (job.ended - job.began) / parts)
        self._ended.append(job)
        return True

    def _next(self) -> J | _Errand | None:
        """Return more work, that is now begun; None when there is none, and the thread is to sleep."""
        job = self._take(self._at_work)
        if job is None:
            self._at_work -= 1
            self._asleep += 1
            if self._is_awaited:
                self._is_awaited = False
                self._rest.release()
        return job

    def _sleep(self) -> J | _Errand | None:
        """Return what this thread is woken for; None when it is to end."""
        if not self._calls.acquire(timeout=_IDLE_S):
            with self._lock:
                if not self._calls.acquire(blocking=False):  # called as it gave up waiting
                    self._asleep -= 1
                    return None
        return self._pick_up()

    def _take(self, at_work: int) -> J | _Errand | None:
        """Return work that is now begun, if so many threads may be at work and any waits."""
        job: J | _Errand | None = None
        if self._errands and at_work <= self._limit:
            job = self._errands.popleft()
        elif at_work <= min(self._limit, self._count) and (taken := self._waiting.take(1)):
            job = taken[0]
        if job is not None:
            job.began = monotonic()  # before the loop can see that it runs
            self._running[job] = None
        return job

    def _call(self) -> None:
        """Have the loop told, unless it is going to be."""
        if self._is_called:
            return
        self._is_called = True
        try:
            self._loop.call_soon_threadsafe(self._tell)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._ended.clear()
            self._is_called = False


def _resolve(errand: _Errand) -> None:
    if errand.error is None:
        errand.future.set_result(errand.result)
    else:
        errand.future.set_exception(errand.error)


def _tell_nobody(begun: Sequence[Job], ended: Sequence[Job]) -> None:
    """Nobody attends yet."""
