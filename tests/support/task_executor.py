"""An executor with tasks instead of threads, so that tests and the simulation control when a job ends."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic

from reactor.core.fair_queue import FairQueue
from reactor.runtime.executor import Executor, J


class TaskExecutor(Executor[J], Generic[J]):
    """Runs `act(job)` in one task per job: at most `count` tasks in parallel, and at most `per_tenant` per tenant."""

    def __init__(
        self, act: Callable[[J], Awaitable[Any]], count: int, *, per_tenant: int, now: Callable[[], float]
    ) -> None:
        self._act = act
        self._count = count
        self._now = now
        self._waiting = FairQueue[J](per_tenant)
        self._running: dict[J, asyncio.Task[None]] = {}
        self._started: list[J] = []
        self._ended: list[J] = []
        self._progressed = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, jobs: Iterable[J]) -> None:
        for job in jobs:
            self._waiting.put(job)
        self._begin_waiting()

    async def progress(self) -> tuple[Sequence[J], Sequence[J]]:
        while True:
            await self._progressed.wait()
            self._progressed.clear()
            started, ended = [job for job in self._started if not job.is_cancelled], self._ended
            self._started, self._ended = [], []
            if started or ended:
                return started, ended

    def drain(self) -> Sequence[J]:
        return self._waiting.clear()

    def abandon(self, job: J) -> bool:
        if job in self._running:
            job.is_cancelled = True
            self._running.pop(job).cancel()
            self._waiting.release(job.tenant)
            self._begin_waiting()
            return True
        return self._waiting.discard(job)

    def _begin_waiting(self) -> None:
        while len(self._running) < self._count and (jobs := self._waiting.take(1)):
            [job] = jobs
            job.began = self._now()
            self._running[job] = asyncio.get_running_loop().create_task(self._run(job))
            self._started.append(job)
            self._progressed.set()

    async def _run(self, job: J) -> None:
        try:
            job.result = await self._act(job)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # reported with the job, as a thread pool does
            job.error = error
        if self._running.pop(job, None) is None:
            return
        job.ended = self._now()
        self._waiting.release(job.tenant)
        self._ended.append(job)
        self._progressed.set()
        self._begin_waiting()
