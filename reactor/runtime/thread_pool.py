"""Daemon threads that run blocking jobs, for many short jobs as well as for few long ones.

A wake-up per job, of a thread and then of the event loop, costs more than a short job. So a thread goes on from one
job to the next while jobs wait. A thread that ends a job wakes the event loop unless another wake-up is on its way, and
the loop then collects all that began and ended.

Why not concurrent.futures.ThreadPoolExecutor: the interpreter joins its threads at exit, so a put that hangs would keep
the process from ending.
"""

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, Generic, TypeVar

from attrs import define

from reactor.core.fair_queue import FairQueue
from reactor.runtime.executor import J, Job

_IDLE_S = 10.0
"""A thread without a job ends after this time."""


T = TypeVar("T")


@define(kw_only=True, eq=False)
class _Call(Job):
    """Work that a coroutine waits for."""

    work: Callable[[], Any]
    future: asyncio.Future[Any]


class ThreadPool(Generic[J]):
    """An `Executor` that runs `work(job)` in at most `count` threads at once, `per_tenant` of one tenant."""

    def __init__(self, work: Callable[[J], Any], count: int, *, per_tenant: int | None = None, name: str) -> None:
        self._work = work
        self._count = count
        self._name = name
        self._loop: asyncio.AbstractEventLoop
        self._progressed = asyncio.Event()
        self._is_notified = False
        self._assigned: queue.SimpleQueue[J | _Call] = queue.SimpleQueue()

        # Invariant: the fields below change under the lock only.
        self._lock = threading.Lock()
        self._waiting = FairQueue[J](per_tenant)
        self._calls: deque[_Call] = deque()
        self._started: list[J] = []
        self._ended: list[J] = []

        # Invariant: a job is running from the moment it is assigned to a thread until it ends or is abandoned.
        # Invariant: each busy thread has one running job. At most `_count` threads are busy, and one more with a call.
        self._running: set[J | _Call] = set()
        self._idle = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, jobs: Iterable[J]) -> None:
        self._loop = asyncio.get_running_loop()
        with self._lock:
            for job in jobs:
                self._waiting.put(job)
            self._assign()

    async def progress(self) -> tuple[Sequence[J], Sequence[J]]:
        while True:
            await self._progressed.wait()
            self._progressed.clear()  # first: what changes from now on sets it again
            with self._lock:
                started, ended = self._started, self._ended
                self._started, self._ended = [], []
            started = [job for job in started if not job.is_cancelled]
            if started or ended:
                return started, ended

    def drain(self) -> Sequence[J]:
        with self._lock:
            return self._waiting.clear()

    def abandon(self, job: J) -> bool:
        return self._abandon(job, self._waiting.discard)

    async def run(self, call: Callable[[], T]) -> T:
        """Run `call` in a thread before all waiting jobs, and return its result.

        When all threads that jobs may use are busy, one more is available to calls. When cancelled, a call that has not
        begun never begins, and the result of any other is ignored.
        """
        self._loop = asyncio.get_running_loop()
        waiting = _Call(work=call, future=self._loop.create_future())
        with self._lock:
            self._calls.append(waiting)
            self._assign()
        try:
            result: T = await waiting.future
        except asyncio.CancelledError:
            self._abandon(waiting, self._discard_call)
            raise
        return result

    # the event loop

    def _abandon(self, job: Any, discard: Callable[[Any], bool]) -> bool:
        with self._lock:
            if job in self._running:
                self._stop_running(job)
                self._assign()  # another thread takes the place of the abandoned one
            elif not discard(job):
                return False
            job.is_cancelled = True
        return True

    def _discard_call(self, call: _Call) -> bool:
        is_waiting = call in self._calls
        if is_waiting:
            self._calls.remove(call)
        return is_waiting

    def _assign(self) -> None:
        """Assign waiting jobs to idle or new threads, within the limits."""
        while (job := self._take()) is not None:
            self._assigned.put(job)
            if self._idle:
                self._idle -= 1
            else:
                # a daemon: a job that hangs must not keep the process from ending
                threading.Thread(target=self._run_thread, name=self._name, daemon=True).start()
        if self._started:
            self._progressed.set()

    def _notified(self) -> None:
        self._is_notified = False  # first: what changes from now on needs another wake-up
        self._progressed.set()

    # the threads

    def _run_thread(self) -> None:
        job = self._assigned_job()
        while job is not None:
            result, error = None, None
            try:
                result = job.work() if isinstance(job, _Call) else self._work(job)
            except BaseException as raised:  # noqa: BLE001  # reported with the job
                error = raised
            ended = job
            with self._lock:  # once per job: the event loop competes for it
                if job not in self._running:
                    return  # abandoned: another thread has taken this one's place
                self._end(job, result, error)
                job = self._take()
                self._idle += job is None
            self._notify(ended)
            del ended, result, error  # an idle thread keeps no job alive
            if job is None:
                job = self._assigned_job()

    def _assigned_job(self) -> J | _Call | None:
        """Wait for a job; return None when this thread is to end."""
        try:
            job = self._assigned.get(timeout=_IDLE_S)
        except queue.Empty:
            with self._lock:
                try:
                    job = self._assigned.get_nowait()  # assigned since the timeout
                except queue.Empty:
                    self._idle -= 1
                    return None
        with self._lock:
            return job if job in self._running else None  # None: abandoned, and the place taken by another thread

    def _notify(self, ended: J | _Call) -> None:
        """Wake the event loop: it reports the job that ended, and the one that this thread began after it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing waits any more
            if isinstance(ended, _Call):
                self._loop.call_soon_threadsafe(_resolve, ended)
            if not self._is_notified:
                self._is_notified = True
                self._loop.call_soon_threadsafe(self._notified)

    # under the lock

    def _take(self) -> J | _Call | None:
        """Return a waiting job, which now counts as running, if a thread is free for it."""
        job: J | _Call
        if self._calls and len(self._running) <= self._count:
            job = self._calls.popleft()
        elif len(self._running) < self._count and (taken := self._waiting.take(1)):
            [job] = taken
            self._started.append(job)
        else:
            return None
        job.began = monotonic()
        self._running.add(job)
        return job

    def _end(self, job: J | _Call, result: Any, error: BaseException | None) -> None:
        self._stop_running(job)
        job.result, job.error, job.ended = result, error, monotonic()
        if not isinstance(job, _Call):
            self._ended.append(job)

    def _stop_running(self, job: J | _Call) -> None:
        self._running.remove(job)
        if not isinstance(job, _Call):
            self._waiting.release(job.tenant)


def _resolve(call: _Call) -> None:
    if call.future.done():
        return
    if call.error is None:
        call.future.set_result(call.result)
    else:
        call.future.set_exception(call.error)
