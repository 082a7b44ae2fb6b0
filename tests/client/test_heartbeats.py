"""Heartbeats of many runs share calls on a connection of their own, whatever the client's other calls do."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from support.rows import Rows

from reactor import ReactorClient, SyncReactorClient
from reactor.client.heartbeats import Heartbeat, HeartbeatSender
from reactor.core.errors import DatabaseForbidden, DatabaseUnavailable, InterpretationTimeout, NotFound, ReactorError

PATIENCE_S = 30.0


class Database:
    """Answers heartbeats as the test says, and records them."""

    def __init__(self) -> None:
        self.calls: list[set[UUID]] = []
        self.answer: Mapping[str, Any] | ReactorError = {"ok": True, "refused": {}, "busy": []}
        self.closed = 0
        self.lost: list[ReactorError] = []
        self._called = asyncio.Event()

    async def send(self, run_ids: Sequence[UUID]) -> Mapping[str, Any]:
        self.calls.append(set(run_ids))
        self._called.set()
        if isinstance(self.answer, ReactorError):
            raise self.answer
        return self.answer

    async def close(self) -> None:
        self.closed += 1

    async def wait_for_calls(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.calls) < count:
                self._called.clear()
                await self._called.wait()

    def heartbeat(self, interval_s: float, *, deadline_s: float = 600.0) -> Heartbeat:
        return Heartbeat(uuid4(), interval_s, monotonic() + deadline_s, self.lost.append)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
async def sender(database: Database) -> AsyncIterator[HeartbeatSender]:
    yield (sender := HeartbeatSender(database.send, database.close))
    for run_id in tuple(sender._heartbeats):
        sender.stop(run_id)
    await sender.finish()


async def test_runs_that_are_due_at_about_the_same_time_share_a_call(
    database: Database, sender: HeartbeatSender
) -> None:
    """Each run's first heartbeat is due a little later than the one before, by less than a tenth of the interval."""
    heartbeats = [database.heartbeat(1.0) for _ in range(20)]
    for number, heartbeat in enumerate(heartbeats):
        sender.start(heartbeat)
        heartbeat.due_at = monotonic() + 0.1 + 0.004 * number
    await database.wait_for_calls(3)
    assert database.calls == [{each.run_id for each in heartbeats}] * 3


async def test_more_runs_than_fit_into_a_call_are_divided(database: Database, sender: HeartbeatSender) -> None:
    due_at = monotonic() + 1
    for _ in range(1001):
        heartbeat = database.heartbeat(60)
        sender.start(heartbeat)
        heartbeat.due_at = due_at
    await database.wait_for_calls(3)
    assert [len(call) for call in database.calls[:3]] == [500, 500, 1]


async def test_each_run_has_its_own_interval(database: Database, sender: HeartbeatSender) -> None:
    slow, fast = database.heartbeat(0.5), database.heartbeat(0.05)
    for heartbeat in (slow, fast):
        sender.start(heartbeat)
    await asyncio.sleep(1.2)
    sent = [run_id for call in database.calls for run_id in call]
    assert sent.count(slow.run_id) == 2
    assert sent.count(fast.run_id) >= 12


async def test_a_run_past_its_deadline_is_asked_at_once(database: Database, sender: HeartbeatSender) -> None:
    sender.start(database.heartbeat(60, deadline_s=0.1))
    await database.wait_for_calls(1)


async def test_a_refused_heartbeat_loses_its_run_alone(database: Database, sender: HeartbeatSender) -> None:
    lost, other = database.heartbeat(0.05), database.heartbeat(0.05)
    refusal = {"ok": False, "code": "NOT_FOUND", "message": "gone", "retryable": False, "details": {}}
    database.answer = {"ok": True, "refused": {str(lost.run_id): refusal}, "busy": []}
    for heartbeat in (lost, other):
        sender.start(heartbeat)
    await database.wait_for_calls(3)
    assert [type(each) for each in database.lost] == [NotFound]
    assert database.calls[1:3] == [{other.run_id}] * 2


async def test_a_run_that_stopped_before_the_refusal_arrived_is_not_lost(
    database: Database, sender: HeartbeatSender
) -> None:
    heartbeat = database.heartbeat(0.05)
    refusal = {"ok": False, "code": "NOT_ALLOWED", "message": "done", "retryable": False, "details": {}}

    async def send(run_ids: Sequence[UUID]) -> Mapping[str, Any]:
        await database.send(run_ids)
        sender.stop(heartbeat.run_id)
        return {"ok": True, "refused": {str(heartbeat.run_id): refusal}, "busy": []}

    sender._send = send
    sender.start(heartbeat)
    await database.wait_for_calls(1)
    await sender.finish()
    assert database.lost == []


@pytest.mark.parametrize("reason", ["busy", "away"])
async def test_a_heartbeat_without_an_answer_is_sent_again_soon(
    database: Database, sender: HeartbeatSender, reason: str
) -> None:
    heartbeat = database.heartbeat(1.5)
    database.answer = (
        DatabaseUnavailable() if reason == "away" else {"ok": True, "refused": {}, "busy": [str(heartbeat.run_id)]}
    )
    started = monotonic()
    sender.start(heartbeat)
    await database.wait_for_calls(2)
    assert 1.9 < monotonic() - started < 2.9  # after the interval, then after half a second
    assert database.lost == []


async def test_a_role_that_may_send_no_heartbeats_loses_its_runs_at_once(
    database: Database, sender: HeartbeatSender
) -> None:
    database.answer = DatabaseForbidden("permission denied")
    for _ in range(2):
        sender.start(database.heartbeat(0.05))
    await database.wait_for_calls(1)
    await sender.finish()
    assert [type(each) for each in database.lost] == [DatabaseForbidden] * 2


async def test_the_connection_is_closed_after_the_last_run_and_opened_for_the_next(
    database: Database, sender: HeartbeatSender
) -> None:
    for closed in (1, 2):
        heartbeat = database.heartbeat(0.05)
        sender.start(heartbeat)
        await database.wait_for_calls(closed)
        sender.stop(heartbeat.run_id)
        await sender.finish()
        assert database.closed == closed


async def _with_runs_while_calls_wait(url: str, rows: Rows, *, runs: int, calls: int, timeout_s: float) -> None:
    """Hold `runs` healthy runs for two heartbeat timeouts while `calls` calls wait for two connections."""
    rows.lift_quotas()
    sources = [rows.source(uuid4(), status="uploaded") for _ in range(runs)]
    lost: list[ReactorError] = []

    async def work(client: ReactorClient, source: UUID) -> None:
        try:
            async with client.interpretation(source, heartbeat_timeout_s=timeout_s, timeout_s=86_400):
                begun.release()
                await ended.wait()
        except ReactorError as error:
            lost.append(error)

    async def call(client: ReactorClient) -> None:
        while not ended.is_set():
            await client.usage(uuid4())

    begun, ended = asyncio.Semaphore(0), asyncio.Event()
    async with ReactorClient(url, connections=2, wait_s=3600) as client, asyncio.TaskGroup() as tasks:
        for source in sources:
            tasks.create_task(work(client, source))
        for _ in sources:
            await begun.acquire()
        calling = [tasks.create_task(call(client)) for _ in range(calls)]
        await asyncio.sleep(2.2 * timeout_s)
        late = rows.one(
            "select count(*) as n, max(clock_timestamp() - heartbeat_at) as longest from public.interpretation_runs"
            " where status <> 'running' or heartbeat_at < clock_timestamp() - heartbeat_timeout"
        )
        assert late.n == 0, late
        ended.set()
        for each in calling:
            each.cancel()
    assert lost == []
    assert rows.one("select count(*) as n from public.interpretation_runs where status = 'completed'").n == runs


async def test_no_heartbeat_is_lost_while_many_calls_wait(migrated_url: str, rows: Rows) -> None:
    await _with_runs_while_calls_wait(migrated_url, rows, runs=60, calls=800, timeout_s=3)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_heartbeat_of_2000_runs_is_lost_while_8000_calls_wait(migrated_url: str, rows: Rows) -> None:
    await _with_runs_while_calls_wait(migrated_url, rows, runs=2000, calls=8000, timeout_s=30)


async def test_a_locked_run_delays_no_other_heartbeat(migrated_url: str, rows: Rows) -> None:
    first, second = (rows.source(uuid4(), status="uploaded") for _ in range(2))
    async with (
        ReactorClient(migrated_url) as client,
        client.interpretation(first, heartbeat_timeout_s=6) as locked,
        client.interpretation(second, heartbeat_timeout_s=6) as other,
    ):
        with rows.conn.transaction():
            rows.all("select from public.interpretation_runs where id = %s for update", (locked.id,))
            await anyio.sleep(2.5)
            assert rows.run_row(other.id).heartbeat_at > rows.run_row(other.id).started_at
        await anyio.sleep(1)
        assert rows.run_row(locked.id).heartbeat_at > rows.run_row(locked.id).started_at
        assert (locked.lost, other.lost) == (None, None)


def test_runs_of_many_threads_share_one_connection_for_heartbeats(migrated_url: str, rows: Rows) -> None:
    sources = [rows.source(uuid4(), status="uploaded") for _ in range(8)]
    with SyncReactorClient(migrated_url, connections=1) as client:
        blocks = [client.interpretation(source, heartbeat_timeout_s=0.9) for source in sources]
        runs = [block.__enter__() for block in blocks]
        rows.all("select pg_sleep(1.5)")
        assert [run.lost for run in runs] == [None] * 8
        query = (
            "select count(*) as n from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        assert rows.one(query).n == 2
        for block in blocks:
            block.__exit__(None, None, None)
    assert {row.status for row in rows.all("select status from public.interpretation_runs")} == {"completed"}


async def test_a_lost_run_is_reported_by_its_next_heartbeat(migrated_url: str, rows: Rows) -> None:
    source = rows.source(uuid4(), status="uploaded")
    async with ReactorClient(migrated_url) as client:
        with anyio.fail_after(PATIENCE_S), pytest.raises(InterpretationTimeout):
            async with client.interpretation(source, heartbeat_timeout_s=0.9) as run:
                rows.run("update public.interpretation_runs set timeout_at = 'epoch' where id = %s", (run.id,))
                await anyio.sleep_forever()
