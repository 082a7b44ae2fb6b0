"""Daemon threads that run blocking jobs, for many short jobs as well as for few long ones.

A thread per job costs more than a short job: the system wakes the thread, and the thread wakes the event loop. So a
thread goes on from one job to the next while jobs wait, and the event loop collects what began and ended once a
millisecond, or when a thread runs out of jobs. Short jobs are fastest in one thread, because more threads only compete
for the interpreter. So the pool begins with one thread, and adds threads while jobs wait and the average job is slow.

Why not concurrent.futures.ThreadPoolExecutor: see reactor/README.md, decision "A thread pool of our own".
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

_INTERVAL_S = 0.001
"""How often the event loop collects what began and ended, and adjusts the number of threads, while jobs wait."""

_SLOW_S = 0.001
"""Threads are added while the average job takes longer than this."""

_SLOW_INTERVALS = 4
"""Threads are added after this many slow intervals in a row: a thread may lack a processor for a moment."""

_IDLE_S = 10.0
"""A thread without a job ends after this time."""


T = TypeVar("T")


@define(kw_only=True, eq=False)
class _Call(Job):
    """Work that a coroutine waits for."""

    work: Callable[[], Any]
    parts: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class ThreadPool(Generic[J]):
    """An `Executor` that runs `work(job)` in at most `count` threads at once, `per_tenant` of one tenant."""

    def __init__(self, work: Callable[[J], Any], count: int, *, per_tenant: int | None = None, name: str) -> None:
        self._work = work
        self._count = count
        self._name = name
        self._loop: asyncio.AbstractEventLoop
        self._progressed = asyncio.Event()
        self._is_watching = False
        self._watched_at = 0.0
        self._slow_intervals = 0
        self._is_notified = False

        # Invariant: the fields below change under the lock only.
        self._lock = threading.Lock()
        self._waiting = FairQueue[J](per_tenant)
        self._calls: deque[_Call] = deque()
        self._started: list[J] = []
        self._ended: list[J] = []

        # Invariant: a job is running from the moment it is assigned to a thread until it ends or is abandoned.
        self._running: set[J | _Call] = set()

        # Invariant: at most `_limit` threads are busy. `_limit` <= `_count` + 1, and the last one takes only calls.
        self._limit = 1
        self._busy = 0
        self._idle = 0
        self._parts_ended = 0
        self._assigned: queue.SimpleQueue[J | _Call] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, jobs: Iterable[J]) -> None:
        with self._lock:
            for job in jobs:
                self._waiting.put(job)
            self._assign()
        self._watch()

    async def progress(self) -> tuple[Sequence[J], Sequence[J]]:
        while True:
            await self._progressed.wait()
            self._progressed.clear()  # first: a thread may set it again from now on
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

    async def run(self, call: Callable[[], T], parts: int = 1) -> T:
        """Run `call` in a thread before all waiting jobs, and return its result.

        `parts` is the number of short operations in the call. One thread more than jobs may use is available to calls.
        When cancelled, a call that has not begun never begins, and the result of any other is ignored.
        """
        loop = asyncio.get_running_loop()
        waiting = _Call(work=call, parts=parts, loop=loop, future=loop.create_future())
        with self._lock:
            self._calls.append(waiting)
            self._assign()
        self._watch()
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
                self._busy -= 1
                self._assign()  # the abandoned thread doesn't count any more: another one takes its place
            elif not discard(job):
                return False
            job.is_cancelled = True
        self._progressed.set()
        return True

    def _discard_call(self, call: _Call) -> bool:
        was_waiting = call in self._calls
        if was_waiting:
            self._calls.remove(call)
        return was_waiting

    def _assign(self) -> None:
        """Assign waiting jobs to idle or new threads, within the limits."""
        while (job := self._take(self._busy + 1)) is not None:
            self._busy += 1
            self._assigned.put(job)
            if self._idle:
                self._idle -= 1
            else:
                # a daemon: a job that hangs must not keep the process from ending
                threading.Thread(target=self._run_thread, name=self._name, daemon=True).start()

    def _watch(self) -> None:
        """Report what has just begun, and collect once an interval while jobs wait."""
        self._loop = asyncio.get_running_loop()
        self._progressed.set()
        if not self._is_watching:
            self._is_watching = True
            self._watched_at = monotonic()
            self._parts_ended = 0
            self._loop.call_later(_INTERVAL_S, self._collect)

    def _collect(self) -> None:
        now = monotonic()
        with self._lock:
            self._adjust_limit(now - self._watched_at)
            self._parts_ended = 0
            self._is_watching = bool(len(self._waiting) or self._calls)
            if self._started or self._ended:
                self._progressed.set()
        self._watched_at = now
        if self._is_watching:
            self._loop.call_later(_INTERVAL_S, self._collect)

    def _adjust_limit(self, interval_s: float) -> None:
        """Double the threads when jobs wait for slow jobs; halve them when jobs are short, or none waits."""
        is_slow = interval_s * self._busy > _SLOW_S * self._parts_ended
        if is_slow and self._could_assign(self._busy + 1):
            self._slow_intervals += 1
            if self._slow_intervals >= _SLOW_INTERVALS:
                self._limit = min(2 * self._limit, self._count + 1)
                self._assign()
            return
        self._slow_intervals = 0
        if not is_slow or not (len(self._waiting) or self._calls):
            self._limit = max(1, self._limit // 2)

    def _could_assign(self, busy: int) -> bool:
        """Return whether a job waits for which `busy` threads would be allowed if `_limit` were higher."""
        return (busy <= self._count + 1 and bool(self._calls)) or (busy <= self._count and self._waiting.takeable)

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
                job = self._next_job()
            self._notify(ended, is_idle=job is None)
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

    def _end(self, job: J | _Call, result: Any, error: BaseException | None) -> None:
        self._stop_running(job)
        job.result, job.error, job.ended = result, error, monotonic()
        self._parts_ended += job.parts if isinstance(job, _Call) else 1
        if not isinstance(job, _Call):
            self._ended.append(job)

    def _next_job(self) -> J | _Call | None:
        """Return another job, now running; None when there is none and the thread becomes idle."""
        job = self._take(self._busy)
        if job is None:
            self._busy -= 1
            self._idle += 1
        return job

    def _notify(self, ended: J | _Call, *, is_idle: bool) -> None:
        """Wake the event loop if a call has ended, or if this thread has become idle: nothing else may collect then."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing waits any more
            if isinstance(ended, _Call):
                ended.loop.call_soon_threadsafe(_resolve, ended)
            elif is_idle and not self._is_notified:
                self._is_notified = True
                self._loop.call_soon_threadsafe(self._notified)

    def _notified(self) -> None:
        self._is_notified = False  # first: what ends from now on needs another wake-up
        self._progressed.set()

    # under the lock

    def _take(self, busy: int) -> J | _Call | None:
        """Return a waiting job, now running, if `busy` threads are allowed for it."""
        job: J | _Call
        if self._calls and busy <= self._limit:
            job = self._calls.popleft()
        elif busy <= min(self._limit, self._count) and (taken := self._waiting.take(1)):
            [job] = taken
            self._started.append(job)
        else:
            return None
        job.began = monotonic()
        self._running.add(job)
        return job

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
