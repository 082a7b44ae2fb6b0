"""A stopping engine lets attempts finish within the grace period. Then it hands back the rows still in flight."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from anyio import Event, create_task_group, fail_after, sleep_forever
from loguru import logger
from support.manual_clock import idle_event
from support.worker_harness import WorkerHarness, signals

from reactor.core.model import Due, Verdict
from reactor.engine import supervisor
from reactor.engine.reconcile import Reconcile
from reactor.engine.supervisor import Engine
from reactor.postgres.connection import DedicatedConnection
from reactor.postgres.usage import StorageUsage

PATIENCE_S = 20.0
NO_DATABASE = DedicatedConnection("postgresql://localhost/unused")


@pytest.fixture
def engine(worker_harness: WorkerHarness) -> Engine:
    """An engine with one worker. The tests don't run its reconciliation."""
    reconcile = Reconcile(
        [worker_harness.worker],
        worker_harness.schedule,
        worker_harness.requests,
        StorageUsage(NO_DATABASE),
        clock=worker_harness.clock,
        emit=worker_harness.recorder,
        interval_s=300.0,
        horizon_s=900.0,
        health=worker_harness.health,
    )
    return Engine(
        clock=worker_harness.clock,
        schedule=worker_harness.schedule,
        workers=[worker_harness.worker],
        requests=worker_harness.requests,
        reconcile=reconcile,
        idle=worker_harness.idle,
    )


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="ERROR")
    yield lines
    logger.remove(sink)


@asynccontextmanager
async def stopping(engine: Engine, *, grace_s: float) -> AsyncIterator[Event]:
    """Run the engine and yield an event that stops it. The block ends when the engine has ended."""
    stop = Event()
    with fail_after(PATIENCE_S):
        async with create_task_group() as tasks:
            tasks.start_soon(lambda: engine.run_until(stop, [sleep_forever], grace_s=grace_s))
            await idle_event()
            yield stop


async def test_attempts_in_flight_finish_within_the_grace_period(engine: Engine, worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.may_act = Event()
    async with stopping(engine, grace_s=PATIENCE_S) as stop:
        await worker_harness.arm(rows)
        stop.set()
        await idle_event()
        assert worker_harness.reaction.cancelled == []
        worker_harness.reaction.may_act.set()
    assert set(worker_harness.reaction.verdicts(Verdict.STORED)) == set(rows)
    assert engine.spent == 3


async def test_attempts_are_handed_back_after_the_grace_period(engine: Engine, worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.may_act = Event()
    async with stopping(engine, grace_s=0.0) as stop:
        await worker_harness.arm(rows)
        stop.set()
    assert set(worker_harness.reaction.verdicts(Verdict.DEFERRED)) == set(rows)
    assert engine.spent == 0


async def test_the_engine_ends_even_if_the_database_stays_unreachable(
    engine: Engine, worker_harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch, log_lines: list[str]
) -> None:
    monkeypatch.setattr(supervisor, "_LAST_SETTLEMENT_S", 0.05)
    worker_harness.reaction.down = {"settle"}
    async with stopping(engine, grace_s=0.0) as stop:
        await worker_harness.arm(signals(1))
        stop.set()
    assert worker_harness.reaction.settled == []
    assert log_lines == ["The database did not take the last outcomes: their leases will expire."]


async def test_background_tasks_end_before_the_workers_do(engine: Engine, worker_harness: WorkerHarness) -> None:
    """While the engine ends, a sweep or a notification must not schedule new rows."""
    stop, background_ended = Event(), Event()

    async def background() -> None:
        try:
            await sleep_forever()
        finally:
            background_ended.set()

    worker_harness.reaction.may_act = Event()
    with fail_after(PATIENCE_S):
        async with create_task_group() as tasks:
            tasks.start_soon(lambda: engine.run_until(stop, [background], grace_s=PATIENCE_S))
            await idle_event()
            await worker_harness.arm(signals(1))
            stop.set()
            await idle_event()
            assert background_ended.is_set()
            assert not worker_harness.worker.ended.is_set()
            worker_harness.reaction.may_act.set()
    assert worker_harness.worker.ended.is_set()


async def test_the_engine_is_idle_once_nothing_is_scheduled_or_unsettled(
    engine: Engine, worker_harness: WorkerHarness
) -> None:
    [row] = signals(1)
    is_idle = Event()

    async def wait_until_idle() -> None:
        await engine.until_idle(Event())
        is_idle.set()

    async with engine.running(), create_task_group() as tasks:
        worker_harness.schedule.arm([Due(row, worker_harness.clock.database_now() + 1.0)])
        tasks.start_soon(wait_until_idle)
        await idle_event()
        assert not is_idle.is_set()
        worker_harness.reaction.may_settle = Event()
        await worker_harness.advance(1.0)
        assert not is_idle.is_set()
        worker_harness.reaction.may_settle.set()
        await idle_event()
        assert is_idle.is_set()
