"""All pipelines at work on one schedule: how they are started, waited for, and ended in order."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from anyio import CancelScope, Event, create_task_group, move_on_after
from attrs import frozen
from loguru import logger

from reactor.engine.reconcile import Reconcile
from reactor.engine.schedule import Schedule
from reactor.engine.worker import Worker
from reactor.reactions.base import Reaction
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import Clock

_SETTLE_S = 5.0
"""How long an end waits for the last settlements once the grace period is over."""


@frozen(kw_only=True)
class Engine:
    """Everything that turns signals into settled rows, wired but not running."""

    clock: Clock
    schedule: Schedule
    pipelines: list[tuple[Reaction[Any], Worker[Any]]]
    reconcile: Reconcile
    idle_event: Wakeup


class RunningPipelines:
    """The pipelines at work: how to wait for them, and how to end them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running = len(engine.pipelines)
        self._ended = Wakeup()

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        await work()
        self._running -= 1
        self._ended.set()

    @property
    def spent(self) -> int:
        """Attempts that were settled and counted so far."""
        return sum(work.spent for _, work in self._engine.pipelines)

    async def until_idle(self, stop: Event) -> None:
        """Wait until nothing is armed, ready, claimed or unsettled, or `stop` is set."""
        while not stop.is_set() and (
            len(self._engine.schedule) or not all(work.is_idle for _, work in self._engine.pipelines)
        ):
            await self._engine.idle_event.wait()

    async def finish(self, grace_s: float) -> None:
        """Let what is in flight finish within the grace period, hand back the rest, and wait for its settlement."""
        for _, work in self._engine.pipelines:
            work.close()
        with move_on_after(grace_s):
            await self._all_ended()
            return
        for _, work in self._engine.pipelines:
            work.abort()
        with move_on_after(_SETTLE_S):
            await self._all_ended()
            return
        logger.error("the database didn't take the last outcomes: their leases will expire")

    async def _all_ended(self) -> None:
        while self._running:
            await self._ended.wait()


@asynccontextmanager
async def working(engine: Engine) -> AsyncIterator[RunningPipelines]:
    """Keep the wheel turning and the pipelines working; whoever enters ends them with `finish`."""
    running = RunningPipelines(engine)
    async with create_task_group() as tasks:
        tasks.start_soon(engine.schedule.run)
        for reaction, work in engine.pipelines:
            work.on_low = partial(engine.reconcile.refill, reaction.name)
            tasks.start_soon(running.run, work.run)
        yield running
        tasks.cancel_scope.cancel()


async def work_until(
    stop: Event, engine: Engine, background_tasks: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, grace_s: float
) -> None:
    """Work on what the background_tasks hear until `stop` is set; then hear no more, and end in order."""
    async with working(engine) as running:
        with CancelScope() as hearing:
            async with create_task_group() as tasks:
                for task in background_tasks:
                    tasks.start_soon(task)
                await stop.wait()
                hearing.cancel()
        await running.finish(grace_s)
