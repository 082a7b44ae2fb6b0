"""An executor whose work is a coroutine: what `Hands` does in threads, in the loop's own time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic

from reactor.core.fair_queue import FairQueue
from reactor.runtime.executor import Executor, J, Told


class TaskExecutor(Executor[J], Generic[J]):
    """Acts on each job in a task of its own, `count` at once, `per_tenant` of one tenant."""

    def __init__(
        self, act: Callable[[J], Awaitable[Any]], count: int, *, per_tenant: int, now: Callable[[], float]
    ) -> None:
        self._act = act
        self._count = count
        self._now = now
        self._waiting = FairQueue[J](per_tenant)
        self._running: dict[J, asyncio.Task[None]] = {}
        self._told: Told

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def attend(self, told: Told) -> None:
        self._told = told

    def submit(self, jobs: Iterable[J]) -> None:
        for job in jobs:
            self._waiting.put(job)
        self._go_on()

    def take_back(self) -> Sequence[J]:
        return self._waiting.clear()

    def drop(self, job: J) -> bool:
        if job in self._running:
            self._running.pop(job).cancel()
            self._waiting.release(job.tenant)
            self._go_on()
            return True
        return self._waiting.discard(job)

    def _go_on(self) -> None:
        while len(self._running) < self._count and (jobs := self._waiting.take(1)):
            [job] = jobs
            job.began = self._now()
            self._running[job] = asyncio.get_running_loop().create_task(self._do(job))
            self._told(jobs, [])

    async def _do(self, job: J) -> None:
        try:
            job.result = await self._act(job)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  # as Hands does
            job.error = error
        if self._running.pop(job, None) is None:
            return
        job.ended = self._now()
        self._waiting.release(job.tenant)
        self._told([], [job])
        self._go_on()
