"""Starts the engine's tasks, and stops them in the right order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from anyio import CancelScope, Event, create_task_group, move_on_after
from attrs import frozen
from loguru import logger

from reactor.engine.reconcile import Reconcile
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import Schedule
from reactor.engine.worker import Worker
from reactor.runtime.clock import Clock

_LAST_SETTLEMENT_S = 5.0
"""Maximum time that shutdown waits for the last settlements after the grace period."""


@frozen(kw_only=True)
class Engine:
    """The parts that turn signals into settled rows, connected to each other."""

    clock: Clock
    schedule: Schedule
    workers: Sequence[Worker[Any]]
    requests: ReconcileRequests
    reconcile: Reconcile
    idle: asyncio.Event
    """Set by each worker when it has no ready, claimed or unsettled rows."""

    @property
    def spent(self) -> int:
        """Number of attempts settled since the start, without the deferred ones."""
        return sum(worker.spent for worker in self.workers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the schedule and the workers during the block. The block must end with a call of `finish`."""
        async with create_task_group() as tasks:
            tasks.start_soon(self.schedule.run)
            for worker in self.workers:
                tasks.start_soon(worker.run)
            yield
            tasks.cancel_scope.cancel()

    async def run_until(
        self, stop: Event, background_tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, grace_s: float
    ) -> None:
        """Run the engine and these tasks until `stop` is set. Then cancel the tasks, and `finish` the engine."""
        async with self.running():
            with CancelScope() as background:
                async with create_task_group() as tasks:
                    for task in background_tasks:
                        tasks.start_soon(task)
                    await stop.wait()
                    background.cancel()
            await self.finish(grace_s)

    async def until_idle(self, stop: Event) -> None:
        """Return when no signal is scheduled or ready and no row is claimed or unsettled, or when `stop` is set."""
        while not stop.is_set() and (len(self.schedule) or not all(worker.is_idle for worker in self.workers)):
            await self.idle.wait()
            self.idle.clear()

    async def finish(self, grace_s: float) -> None:
        """Wait for running attempts during the grace period, cut the remaining ones short, and wait for settlements."""
        for worker in self.workers:
            worker.close()
        with move_on_after(grace_s):
            await self._wait_ended()
            return
        for worker in self.workers:
            worker.abort()
        with move_on_after(_LAST_SETTLEMENT_S):
            await self._wait_ended()
            return
        logger.error("The database did not take the last outcomes: their leases will expire.")

    async def _wait_ended(self) -> None:
        for worker in self.workers:
            await worker.ended.wait()
