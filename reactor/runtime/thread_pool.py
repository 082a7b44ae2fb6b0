"""Runs blocking jobs in the threads of a concurrent.futures.ThreadPoolExecutor.

Waking a thread and then the event loop for each job takes longer than a short job. So a thread runs one job after
another while jobs wait. A thread wakes the event loop only if no other wake-up is pending; the loop then collects all
jobs that have begun or ended.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Generic, TypeVar

from reactor.core.fair_queue import FairQueue
from reactor.runtime.executor import J

_SPARE_THREADS = 1_000
"""Number of threads beyond `count`: for `run`, and to replace threads that hang in an abandoned job."""

T = TypeVar("T")


class ThreadPool(Generic[J]):
    """An `Executor` that runs `work(job)` for at most `count` jobs concurrently, at most `per_tenant` of one tenant.

    Python joins the threads when the process ends, so a job that hangs delays the end of the process.
    """

    def __init__(self, work: Callable[[J], Any], count: int, *, per_tenant: int | None = None, name: str) -> None:
        self._work = work
        self._count = count
        self._threads = ThreadPoolExecutor(count + _SPARE_THREADS, thread_name_prefix=name)
        self._loop: asyncio.AbstractEventLoop
        self._progressed = asyncio.Event()
        self._is_notified = False

        # Invariant: the fields below are changed only under the lock.
        self._lock = threading.Lock()
        self._waiting = FairQueue[J](per_tenant)
        self._started: list[J] = []
        self._ended: list[J] = []

        # Invariant: at most `_count` jobs, each assigned to a thread and neither ended nor abandoned.
        self._running: set[J] = set()

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
            self._progressed.clear()  # before the lists are read, so that later progress sets it again
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
        with self._lock:
            if job in self._running:
                self._stop_running(job)
                self._assign()  # another thread takes the place of the abandoned one
            elif not self._waiting.discard(job):
                return False
            job.is_cancelled = True
        return True

    async def run(self, call: Callable[[], T]) -> T:
        """Run a short call in a thread, without the limit `count`, and return its result.

        Cancellation doesn't interrupt a call that has begun, but its result is ignored.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Begin no more jobs and calls. Doesn't wait for running ones."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    # under the lock

    def _assign(self) -> None:
        """Assign threads to waiting jobs, within the limits."""
        while (job := self._take()) is not None:
            self._threads.submit(self._run_from, job)
        if self._started:
            self._progressed.set()

    def _take(self) -> J | None:
        """Remove a waiting job and mark it as running, if the limits allow; return it, or None."""
        if len(self._running) >= self._count or not (taken := self._waiting.take(1)):
            return None
        [job] = taken
        job.began = monotonic()
        self._running.add(job)
        self._started.append(job)
        return job

    def _stop_running(self, job: J) -> None:
        self._running.remove(job)
        self._waiting.release(job.tenant)

    # in a thread

    def _run_from(self, job: J | None) -> None:
        """Run the job, then one waiting job after another until none may begin."""
        while job is not None:
            result, error = None, None
            try:
                result = None if job.is_cancelled else self._work(job)
            except BaseException as raised:  # noqa: BLE001  # reported with the job
                error = raised
            with self._lock:  # taken only once per job, because the event loop also needs it
                if job not in self._running:
                    return  # abandoned: another thread has taken this one's place
                self._stop_running(job)
                job.result, job.error, job.ended = result, error, monotonic()
                self._ended.append(job)
                job = self._take()
            self._notify()

    def _notify(self) -> None:
        """Wake the event loop, unless a wake-up is pending."""
        if not self._is_notified:
            self._is_notified = True
            with contextlib.suppress(RuntimeError):  # raised when the loop is closed: then no task waits for progress
                self._loop.call_soon_threadsafe(self._on_notified)

    def _on_notified(self) -> None:
        self._is_notified = False  # before the lists are read, so that later progress wakes the loop again
        self._progressed.set()
