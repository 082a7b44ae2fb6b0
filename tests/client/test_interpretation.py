"""The end of a block ends its run; a run that ended elsewhere cancels its block; short outages change nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from anyio import CancelScope, Event, create_task_group, fail_after, sleep_forever
from opentelemetry.sdk.trace import TracerProvider
from psycopg import sql
from support.app import App
from support.recorder import Recorder
from support.rows import Rows, rows_of

from reactor import ReactorClient
from reactor.client.connections import Connections
from reactor.core.errors import (
    DatabaseUnavailable,
    InterpretationFailed,
    InterpretationHeartbeatLost,
    InterpretationInProgress,
    InterpretationQuotaExceeded,
    InterpretationTimeout,
    NotAllowed,
    ReactorError,
    StoragePending,
)
from reactor.core.events import RunExpired
from reactor.postgres import statements
from reactor.postgres.connection import DedicatedConnection

PATIENCE_S = 30.0


class ObservedConnections(Connections):
    """Connections that record the outcome of each call, and let a test wait for an outcome."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, size=4, wait_s=30)
        self.outcomes: list[tuple[str, type[Exception] | None]] = []
        self._changed = Event()

    async def ask(
        self, statement: LiteralString, arguments: Sequence[Any], *, is_urgent: bool = False
    ) -> Mapping[str, Any]:
        return await self._observed(statement, super().ask(statement, arguments, is_urgent=is_urgent))

    async def send_heartbeats(self, connection: DedicatedConnection, run_ids: Sequence[UUID]) -> Mapping[str, Any]:
        return await self._observed(statements.HEARTBEAT_INTERPRETATIONS, super().send_heartbeats(connection, run_ids))

    async def _observed(self, statement: str, call: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
        outcome: type[Exception] | None = None
        try:
            return await call
        except ReactorError as error:
            outcome = type(error)
            raise
        finally:
            self.outcomes.append((statement, outcome))
            self._changed.set()


class ObservedClient(ReactorClient):
    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self._connections = self.observed = ObservedConnections(dsn)

    async def wait_for(self, statement: str, outcome: type[Exception] | None) -> None:
        """Wait for the next call of `statement` with this outcome; None means success."""
        observed = self.observed
        earlier = len(observed.outcomes)
        with fail_after(PATIENCE_S):
            while (statement, outcome) not in observed.outcomes[earlier:]:
                observed._changed = Event()
                await observed._changed.wait()


@pytest.fixture
async def client(migrated_url: str) -> AsyncIterator[ObservedClient]:
    async with ObservedClient(migrated_url) as client:
        yield client


@pytest.fixture
def source(rows: Rows) -> UUID:
    return rows.source(uuid4(), status="uploaded")


def end_of(rows: Rows, run: UUID) -> tuple[str, str | None, str | None]:
    """Return the run's status, error code and error message."""
    row = rows.run_row(run)
    assert (row.completed_at is not None) == (row.status != "running")
    return row.status, row.error_code, row.error_message


# the end of a run


async def test_the_end_of_the_block_completes_the_run(client: ObservedClient, rows: Rows, source: UUID) -> None:
    async with client.interpretation(source, {"model": "m"}, timeout_s=60, heartbeat_timeout_s=9) as run:
        row = rows.run_row(run.id)
        assert (row.status, row.source_id, row.interpretation_config) == ("running", source, {"model": "m"})
        assert row.heartbeat_timeout.total_seconds() == 9
        assert row.timeout_at == run.timeout_at
        assert (row.timeout_at - row.started_at).total_seconds() == 60
        assert row.traceparent == run.traceparent
    assert end_of(rows, run.id) == ("completed", None, None)


async def test_an_exception_in_the_block_fails_the_run_and_is_raised_unchanged(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    problem = ValueError("no text on page 3")
    with pytest.raises(ValueError, match="no text") as caught:
        async with client.interpretation(source) as run:
            raise problem
    assert caught.value is problem
    assert end_of(rows, run.id) == ("failed", "INTERPRETATION_FAILED", "ValueError: no text on page 3")


async def test_a_worker_can_fail_its_run_with_its_own_code_and_message(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    async with client.interpretation(source) as run:
        await run.fail("MODEL_REFUSED", "the model wouldn't")
    assert end_of(rows, run.id) == ("failed", "MODEL_REFUSED", "the model wouldn't")


async def test_a_worker_that_is_cancelled_fails_its_run(client: ObservedClient, rows: Rows, source: UUID) -> None:
    with CancelScope() as scope:
        async with client.interpretation(source) as run:
            scope.cancel()
            await sleep_forever()
    assert scope.cancelled_caught
    assert end_of(rows, run.id)[:2] == ("failed", "INTERPRETATION_FAILED")


async def test_a_task_that_is_cancelled_by_asyncio_fails_its_run(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    begun: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with client.interpretation(source) as run:
            begun.set_result(run.id)
            await asyncio.sleep(PATIENCE_S)

    task = asyncio.create_task(work())
    run = await begun
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert end_of(rows, run)[:2] == ("failed", "INTERPRETATION_FAILED")


# the start of a run


async def test_a_source_that_is_not_stored_yet_cannot_be_interpreted(client: ObservedClient, rows: Rows) -> None:
    with pytest.raises(StoragePending) as caught:
        await client.interpretation(rows.source(uuid4())).__aenter__()
    assert caught.value.retryable


async def test_a_source_has_at_most_one_running_interpretation(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    async with client.interpretation(source) as run:
        with pytest.raises(InterpretationInProgress) as caught:
            await client.interpretation(source).__aenter__()
        assert caught.value.details["run_id"] == str(run.id)
    assert end_of(rows, run.id)[0] == "completed"


async def test_an_exhausted_quota_starts_no_run(client: ObservedClient, rows: Rows, source: UUID) -> None:
    rows.run("update public.quota_plans set interpretation_limit_month = 1 where plan = 'free'")
    async with client.interpretation(source):
        pass
    with pytest.raises(InterpretationQuotaExceeded) as caught:
        await client.interpretation(source).__aenter__()
    assert caught.value.details.keys() == {"plan", "limit", "used", "resets_at"}
    assert rows.one("select count(*) as n from public.interpretation_runs").n == 1


async def test_a_run_continues_the_trace_of_its_caller(client: ObservedClient, rows: Rows, source: UUID) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        async with client.interpretation(source) as run:
            pass
    assert run.traceparent.split("-")[1] == f"{span.get_span_context().trace_id:032x}"


# runs that end elsewhere


async def test_a_run_that_passes_its_deadline_cancels_its_block(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    """No reactor is running, and the next heartbeat is due long after the deadline."""
    with fail_after(10), pytest.raises(InterpretationTimeout):
        async with client.interpretation(source, timeout_s=0.3, heartbeat_timeout_s=60) as run:
            await sleep_forever()
    assert end_of(rows, run.id)[:2] == ("failed", "INTERPRETATION_TIMEOUT")


async def test_a_run_that_a_reactor_failed_cancels_its_block(
    app: App, recorder: Recorder, rows: Rows, source: UUID
) -> None:
    async with app.running_reactor(recorder), ReactorClient(app.url) as client:
        with fail_after(10), pytest.raises(InterpretationTimeout):
            async with client.interpretation(source, timeout_s=0.3, heartbeat_timeout_s=60) as run:
                expired = await recorder.wait_for(RunExpired)
                assert expired.run_id == run.id
                await sleep_forever()
    assert end_of(rows, run.id)[:2] == ("failed", "INTERPRETATION_TIMEOUT")


async def test_a_run_that_an_operator_failed_cancels_its_block(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    with fail_after(10), pytest.raises(InterpretationFailed):
        async with client.interpretation(source, heartbeat_timeout_s=1.5) as run:
            rows.all("select reactor.fail_runs(%s, 'by hand')", ([run.id],))
            await sleep_forever()
    assert end_of(rows, run.id) == ("failed", "INTERPRETATION_FAILED", "by hand")


async def test_a_worker_that_was_paused_past_its_deadline_cannot_complete_its_run(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    """The test blocks the event loop, so it sends no heartbeats, like a process that SIGSTOP has stopped."""
    with pytest.raises((InterpretationTimeout, InterpretationHeartbeatLost)):
        async with client.interpretation(source, timeout_s=0.2, heartbeat_timeout_s=60) as run:
            rows.all("select pg_sleep(0.3)")  # blocks the event loop
    assert end_of(rows, run.id)[:2] == ("failed", "INTERPRETATION_TIMEOUT")


async def test_a_run_that_was_completed_elsewhere_is_not_completed_again(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    with fail_after(10), pytest.raises(NotAllowed):
        async with client.interpretation(source, heartbeat_timeout_s=1.5) as run:
            rows.all("select public.complete_interpretation(%s)", (run.id,))
            await sleep_forever()
    assert end_of(rows, run.id)[0] == "completed"


async def test_the_error_of_the_block_is_raised_even_if_the_run_ended_elsewhere(
    client: ObservedClient, rows: Rows, source: UUID
) -> None:
    with pytest.raises(ValueError, match="mine") as caught:
        async with client.interpretation(source, heartbeat_timeout_s=60) as run:
            rows.all("select reactor.fail_runs(%s, 'by hand')", ([run.id],))
            raise ValueError("mine")
    assert end_of(rows, run.id) == ("failed", "INTERPRETATION_FAILED", "by hand")
    assert not getattr(caught.value, "__notes__", [])  # the run has failed already, so `fail` succeeds and adds no note


# heartbeats


async def test_heartbeats_come_at_a_third_of_the_timeout(client: ObservedClient, rows: Rows, source: UUID) -> None:
    async with client.interpretation(source, heartbeat_timeout_s=0.6) as run:
        for _ in range(4):  # four heartbeats take longer than the timeout
            await client.wait_for(statements.HEARTBEAT_INTERPRETATIONS, None)
        row = rows.one(
            "select heartbeat_at - started_at as kept_alive, clock_timestamp() - heartbeat_at as ago"
            " from public.interpretation_runs where id = %s",
            (run.id,),
        )
        assert row.kept_alive.total_seconds() >= 0.7
        assert row.ago.total_seconds() < 0.6
    assert end_of(rows, run.id)[0] == "completed"


@contextmanager
def database_outage(server_url: str, database_url: str) -> Iterator[None]:
    """Close all connections to a database and refuse new ones during the block."""
    name = urlsplit(database_url).path.lstrip("/")

    def allow(*, connections: bool) -> None:
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(
                sql.SQL("alter database {} with allow_connections {}").format(
                    sql.Identifier(name), sql.Literal(connections)
                )
            )
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))

    allow(connections=False)
    try:
        yield
    finally:
        allow(connections=True)


async def test_a_running_run_survives_a_short_database_outage(
    client: ObservedClient, server_url: str, migrated_url: str, source: UUID
) -> None:
    async with client.interpretation(source, heartbeat_timeout_s=24) as run:
        with database_outage(server_url, migrated_url):
            await client.wait_for(statements.HEARTBEAT_INTERPRETATIONS, DatabaseUnavailable)
        await client.wait_for(statements.HEARTBEAT_INTERPRETATIONS, None)
    with rows_of(migrated_url) as rows:
        assert end_of(rows, run.id)[0] == "completed"


async def test_the_end_of_a_run_survives_a_short_database_outage(
    client: ObservedClient, server_url: str, migrated_url: str, source: UUID
) -> None:
    async def work(ended: Event) -> None:
        async with client.interpretation(source) as run:
            runs.append(run.id)
            begun.set()
            await ended.wait()

    runs: list[UUID] = []
    begun, ended = Event(), Event()
    async with create_task_group() as tasks:
        tasks.start_soon(work, ended)
        await begun.wait()
        with database_outage(server_url, migrated_url):
            ended.set()
            await client.wait_for(statements.COMPLETE_INTERPRETATION, DatabaseUnavailable)
    with rows_of(migrated_url) as rows:
        assert end_of(rows, runs[0])[0] == "completed"
