"""A reconciliation pass finds all due rows, and counts the rows whose notifications were missed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import pytest
from anyio import Event, create_task_group
from support.app import App, QueuedUpload
from support.manual_clock import ManualClock, idle_event
from support.recorder import Recorder

from reactor.core.errors import DatabaseForbidden, DatabaseRefused, DatabaseUnavailable
from reactor.core.events import (
    AttemptSettled,
    AttemptStarted,
    DatabaseLost,
    Notified,
    Reconciled,
    Rescued,
    RunExpired,
    Swept,
    UsageRepaired,
)
from reactor.core.model import Due, Signal, Verdict
from reactor.core.trace_context import TraceContext
from reactor.engine import reconcile, worker
from reactor.engine.reconcile import Reconcile
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.engine.worker import DirectWorker
from reactor.postgres.call_health import CallHealth
from reactor.postgres.notification import Hint
from reactor.postgres.usage import StorageUsage
from reactor.reactions import upload_backlog
from reactor.reactions.base import DirectReaction, Sweep

INTERVAL_S = 300.0


# the reconciliation loop with a manual clock


class Listed(DirectReaction):
    """A reaction whose sweeps return `rows`, which the test sets."""

    name = "rows"
    channel = "rows"

    def __init__(self) -> None:
        self.rows: list[tuple[Due, float]] = []
        self.complete = True
        self.down = False
        self.rescue_fails_with: Exception | None = None
        self.rescues = 0
        self.sweeps = 0
        self.while_read: Callable[[], None] = lambda: None
        self.may_sweep = Event()
        """Sweeps wait until this event is set."""
        self.may_sweep.set()

    def due_at(self, hint: Hint) -> float | None:
        raise NotImplementedError

    async def act(self, signals: Sequence[Signal]) -> Sequence[Due]:
        raise NotImplementedError

    async def rescue(self) -> Sequence[TraceContext]:
        self.rescues += 1
        if self.rescue_fails_with is not None:
            raise self.rescue_fails_with
        if self.down:
            raise DatabaseUnavailable("the test took it away")
        return ()

    async def sweep(self, horizon_s: float) -> Sweep:
        assert horizon_s == 900.0
        self.sweeps += 1
        self.while_read()
        await self.may_sweep.wait()
        return Sweep(rows=list(self.rows), complete=self.complete)


class FixedUsage(StorageUsage):
    """A usage repair that returns `repaired` once. The test sets `repaired`."""

    def __init__(self) -> None:
        self.repaired: dict[str, int] = {}

    async def repair(self) -> dict[str, int]:
        repaired, self.repaired = self.repaired, {}
        return repaired


class ClaimingWorker(DirectWorker):
    """A worker that reports the rows in `claimed` as claimed until the test releases them."""

    claimed: set[Signal] = set()  # noqa: RUF012  # replaced, never changed
    released: set[Signal] = set()  # noqa: RUF012  # replaced before it is changed

    def is_claimed(self, signal: Signal) -> bool:
        return signal in self.claimed

    @contextmanager
    def track_released(self) -> Iterator[Container[Signal]]:
        self.released = set()
        yield self.released

    def release(self, signal: Signal) -> None:
        self.claimed = self.claimed - {signal}
        self.released.add(signal)


class ReconcileHarness:
    """The reconciliation loop and a schedule. No worker runs, so rows stay in the schedule."""

    def __init__(self, capacity: int = 1_000_000) -> None:
        self.clock = ManualClock()
        self.recorder = Recorder()
        self.health = CallHealth(self.clock)
        self.reaction = Listed()
        self.usage = FixedUsage()
        self.ready = ready = ReadyQueue()
        self.requests = requests = ReconcileRequests()
        self.schedule = Schedule(
            self.clock, {"rows": ready}, requests, horizon_s=900.0, emit=self.recorder, capacity=capacity
        )
        self.worker = ClaimingWorker(
            self.reaction,
            ready,
            self.schedule,
            requests,
            clock=self.clock,
            emit=self.recorder,
            idle=asyncio.Event(),
            health=self.health,
        )
        self.reconcile = Reconcile(
            [self.worker],
            self.schedule,
            requests,
            self.usage,
            clock=self.clock,
            emit=self.recorder,
            interval_s=INTERVAL_S,
            horizon_s=900.0,
            health=self.health,
        )

    def list_row(self, *, due_s: float, changed_s: float) -> Signal:
        """Add a row to the results of later sweeps. Both times are in seconds from now."""
        now = self.clock.database_now()
        signal = Signal("rows", uuid4().int, 1)
        self.reaction.rows.append((Due(signal, now + due_s), now + changed_s))
        return signal

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await idle_event()

    async def missed(self) -> int:
        """Run a pass; return the number of rows that the pass counts as missed."""
        await self.reconcile.run_pass()
        return (await self.recorder.wait_for(Swept)).missed

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with create_task_group() as tasks:
            tasks.start_soon(self.reconcile.run)
            await idle_event()
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture
def harness() -> ReconcileHarness:
    return ReconcileHarness()


async def test_a_pass_emits_what_it_repaired_in_the_usage(harness: ReconcileHarness) -> None:
    harness.usage.repaired = {"reservations": 2, "months": 1}
    await harness.reconcile.run_pass()
    await harness.reconcile.run_pass()
    assert harness.recorder.events_of(UsageRepaired) == [
        UsageRepaired(kind="reservations", count=2),
        UsageRepaired(kind="months", count=1),
    ]


async def test_passes_run_at_start_at_each_interval_and_on_request(harness: ReconcileHarness) -> None:
    async with harness.running():
        assert harness.reaction.sweeps == 1
        await harness.advance(INTERVAL_S - 0.01)
        assert harness.reaction.sweeps == 1
        await harness.advance(0.01)
        assert harness.reaction.sweeps == 2
        harness.requests.request_pass()
        await idle_event()
        assert harness.reaction.sweeps == harness.reaction.rescues == 3
        await harness.advance(INTERVAL_S - 0.01)
        assert harness.reaction.sweeps == 3


async def test_many_requests_cause_one_more_pass(harness: ReconcileHarness) -> None:
    async with harness.running():
        for _ in range(100):
            harness.requests.request_pass()
        await idle_event()
        assert harness.reaction.sweeps == 2


async def test_a_request_during_a_pass_causes_another_pass(harness: ReconcileHarness) -> None:
    """The running pass may have read the rows before the change that caused the request."""

    def request_once() -> None:
        if harness.reaction.sweeps == 1:
            harness.requests.request_pass()

    harness.reaction.while_read = request_once
    async with harness.running():
        assert harness.reaction.sweeps == 2


async def test_request_and_wait_returns_after_a_pass_that_began_after_the_call(harness: ReconcileHarness) -> None:
    has_returned, first, second = Event(), Event(), Event()

    async def request_and_wait() -> None:
        await harness.reconcile.request_and_wait()
        has_returned.set()

    harness.reaction.may_sweep = first
    async with harness.running(), create_task_group() as tasks:
        tasks.start_soon(request_and_wait)
        await idle_event()
        harness.reaction.may_sweep = second
        first.set()
        await idle_event()
        assert harness.reaction.sweeps == 2
        assert not has_returned.is_set()
        second.set()
        await idle_event()
        assert has_returned.is_set()


async def test_passes_are_frequent_while_polling(harness: ReconcileHarness) -> None:
    async with harness.running():
        harness.reconcile.polling_interval_s = 2.0
        harness.requests.request_pass()
        await idle_event()
        for _ in range(5):
            await harness.advance(2.0)
        assert harness.reaction.sweeps == 7


async def test_a_failed_pass_is_repeated_soon(harness: ReconcileHarness) -> None:
    harness.reaction.down = True
    async with harness.running():
        assert (await harness.recorder.wait_for(DatabaseLost)).doing == "reconcile"
        assert harness.recorder.events_of(Reconciled) == []
        harness.reaction.down = False
        await harness.advance(1.0)
        assert harness.reaction.sweeps == 1
        assert len(harness.recorder.events_of(Reconciled)) == 1


@pytest.mark.parametrize(
    "error",
    [
        DatabaseRefused("the test's trigger", sqlstate="P0001"),
        DatabaseUnavailable("canceling statement due to lock timeout", is_busy=True),
    ],
)
async def test_a_step_that_is_refused_or_locked_does_not_stop_the_pass(
    harness: ReconcileHarness, error: Exception
) -> None:
    harness.reaction.rescue_fails_with = error
    row = harness.list_row(due_s=5.0, changed_s=0.0)
    async with harness.running():
        lost = await harness.recorder.wait_for(DatabaseLost)
        assert (lost.doing, lost.reason) == ("rescue rows", str(error))
        assert len(harness.recorder.events_of(Reconciled)) == 1
        assert harness.schedule.is_waiting(row)
        assert harness.reconcile.skipped == [f"couldn't rescue rows: {error}"]


async def test_a_missing_grant_is_asked_for_again_soon(harness: ReconcileHarness) -> None:
    harness.reaction.rescue_fails_with = DatabaseForbidden("permission denied")
    async with harness.running():
        assert (await harness.recorder.wait_for(DatabaseLost)).doing == "reconcile"
        harness.reaction.rescue_fails_with = None
        await harness.advance(1.0)
        assert len(harness.recorder.events_of(Reconciled)) == 1


async def test_a_row_that_is_set_aside_is_neither_scheduled_nor_missed(harness: ReconcileHarness) -> None:
    harness.reconcile.expect_notifications(arrive=True)
    row = harness.list_row(due_s=-100.0, changed_s=1.0)
    harness.clock.advance(50.0)
    harness.worker.set_aside.add([(row, DatabaseRefused("no", sqlstate="23514"))])
    await harness.reconcile.run_pass()
    assert not harness.schedule.is_waiting(row)
    harness.clock.advance(31.0)
    await harness.reconcile.run_pass()
    assert harness.schedule.is_waiting(row)
    assert sum(swept.missed for swept in harness.recorder.events_of(Swept)) == 0


async def test_a_request_while_a_pass_fails_is_not_lost(harness: ReconcileHarness) -> None:
    async with harness.running():
        harness.reaction.down = True
        harness.requests.request_pass()
        await idle_event()
        harness.reaction.down = False
        await harness.advance(1.0)
        assert harness.reaction.sweeps == 2


async def test_a_pass_arms_unknown_rows_and_leaves_known_ones_alone(harness: ReconcileHarness) -> None:
    known = harness.list_row(due_s=5.0, changed_s=0.0)
    harness.schedule.arm([Due(known, harness.clock.database_now() + 1.0)])
    unknown = harness.list_row(due_s=5.0, changed_s=0.0)
    await harness.reconcile.run_pass()
    assert (await harness.recorder.wait_for(Swept)).found == 1
    assert harness.schedule.is_waiting(unknown)
    assert len(harness.schedule) == 2
    assert not harness.reconcile.has_more


async def test_a_pass_reschedules_a_row_that_is_scheduled_much_too_late(harness: ReconcileHarness) -> None:
    """A forged notification may have scheduled the row. The row isn't counted as missed."""
    harness.reconcile.expect_notifications(arrive=True)
    await harness.advance(100.0)
    late = harness.list_row(due_s=-6.0, changed_s=-10.0)
    harness.schedule.arm([Due(late, harness.clock.database_now() + 800.0)])
    assert await harness.missed() == 0
    assert late in harness.ready.queue


async def test_a_due_row_without_a_notification_is_counted_as_missed(harness: ReconcileHarness) -> None:
    harness.reconcile.expect_notifications(arrive=True)
    await harness.advance(100.0)
    harness.list_row(due_s=-6.0, changed_s=-10.0)
    harness.list_row(due_s=-50.0, changed_s=-6.0)
    assert await harness.missed() == 2
    assert await harness.missed() == 0  # both rows are scheduled now


async def test_a_row_that_could_not_have_been_notified_is_not_counted_as_missed(harness: ReconcileHarness) -> None:
    await harness.advance(100.0)
    harness.list_row(due_s=-60.0, changed_s=-60.0)
    assert await harness.missed() == 0  # the reactor doesn't listen yet

    harness.reconcile.expect_notifications(arrive=True)
    harness.list_row(due_s=-60.0, changed_s=-60.0)  # changed before the reactor listened
    harness.list_row(due_s=-4.0, changed_s=-4.0)  # the notification may still arrive
    harness.list_row(due_s=60.0, changed_s=0.0)  # not due yet
    harness.list_row(due_s=-60.0, changed_s=0.0)  # overdue, but changed just now
    assert await harness.missed() == 0

    harness.reconcile.expect_notifications(arrive=False)
    await harness.advance(100.0)
    harness.list_row(due_s=-10.0, changed_s=-10.0)
    assert await harness.missed() == 0  # the connection is lost


async def test_a_backlog_that_a_sweep_left_behind_is_not_counted_as_missed(harness: ReconcileHarness) -> None:
    harness.reconcile.expect_notifications(arrive=True)
    await harness.advance(100.0)
    harness.reaction.complete = False
    await harness.reconcile.run_pass()
    harness.recorder.skip_recorded()
    assert harness.reconcile.has_more
    harness.list_row(due_s=-50.0, changed_s=-50.0)
    assert await harness.missed() == 0


async def test_a_row_settled_during_a_sweep_is_not_counted_as_missed(harness: ReconcileHarness) -> None:
    harness.reconcile.expect_notifications(arrive=True)
    await harness.advance(100.0)
    signal = harness.list_row(due_s=-50.0, changed_s=-50.0)
    harness.worker.claimed = {signal}
    harness.reaction.while_read = lambda: harness.worker.release(signal)
    assert await harness.missed() == 0
    assert not harness.schedule.is_waiting(signal)

    harness.reaction.while_read = lambda: None
    assert await harness.missed() == 1  # the row is still listed, and this worker hasn't claimed it


async def test_a_backlog_is_swept_again_as_soon_as_there_is_room(harness: ReconcileHarness) -> None:
    harness.reaction.complete = False
    harness.list_row(due_s=0.0, changed_s=0.0)
    async with harness.running():
        harness.worker.request_refill()
        await idle_event()
        assert harness.reaction.sweeps == 2
        assert harness.reaction.rescues == 1

        harness.worker.request_refill()  # no immediate sweep, because the last sweep found only scheduled rows
        await idle_event()
        assert harness.reaction.sweeps == 2
        await harness.advance(1.0)
        harness.reaction.complete = True
        harness.worker.request_refill()
        await idle_event()
        assert harness.reaction.sweeps == 3

        harness.worker.request_refill()  # no sweep, because the last sweep was complete
        await harness.advance(5.0)
        assert harness.reaction.sweeps == 3


def list_overdue_beside_another_reactor(harness: ReconcileHarness, count: int) -> tuple[list[Signal], list[Signal]]:
    """Add another reactor and `count` overdue rows. Return the rows that rank this reactor first, and the rest."""
    harness.schedule.rendezvous_order.set_members(uuid4(), [uuid4()])
    signals = [harness.list_row(due_s=-9.0, changed_s=-9.0) for _ in range(count)]
    ours = [signal for signal in signals if not harness.schedule.rendezvous_order.delay_s(signal.row)]
    return ours, [signal for signal in signals if signal not in set(ours)]


def unlist(harness: ReconcileHarness, removed: Sequence[Signal]) -> None:
    """Remove rows from the results of later sweeps."""
    harness.reaction.rows = [row for row in harness.reaction.rows if row[0].signal not in set(removed)]


async def test_a_reactor_with_enough_work_yields_the_rows_of_others(harness: ReconcileHarness) -> None:
    ours, others = list_overdue_beside_another_reactor(harness, 1_200)
    await harness.reconcile.run_pass()
    assert (await harness.recorder.wait_for(Swept)).found == len(ours)
    assert [signal for signal in others if harness.schedule.is_waiting(signal)] == []
    assert all(harness.schedule.is_waiting(signal) for signal in ours)


async def test_a_reactor_with_little_work_takes_over_the_rows_of_others(harness: ReconcileHarness) -> None:
    ours, others = list_overdue_beside_another_reactor(harness, 600)
    await harness.reconcile.run_pass()
    assert (await harness.recorder.wait_for(Swept)).found == 600
    assert all(harness.schedule.is_waiting(signal) for signal in [*ours, *others])


async def test_yielded_rows_are_swept_again_once_there_is_little_work(harness: ReconcileHarness) -> None:
    ours, others = list_overdue_beside_another_reactor(harness, 1_200)
    async with harness.running():
        assert harness.reaction.sweeps == 1
        harness.worker.request_refill()
        await idle_event()
        assert harness.reaction.sweeps == 1, "swept although the ready queue was full"

        harness.ready.queue.take(len(ours))
        unlist(harness, [*ours, *others[50:]])
        harness.worker.request_refill()
        await idle_event()
        assert harness.reaction.sweeps == 2
        assert all(harness.schedule.is_waiting(signal) for signal in others[:50])
        assert not any(harness.schedule.is_waiting(signal) for signal in others[50:])

        harness.worker.request_refill()
        await harness.advance(2.0)
        assert harness.reaction.sweeps == 2, "swept although no row was yielded"


async def test_yielded_rows_are_left_to_a_reactor_that_makes_progress(harness: ReconcileHarness) -> None:
    _, others = list_overdue_beside_another_reactor(harness, 2_400)
    async with harness.running():
        for i in range(1, 4):
            unlist(harness, others[: 10 * i])
            await harness.advance(30.001)
            assert harness.reaction.sweeps == 1 + i
            assert not any(harness.schedule.is_waiting(signal) for signal in others)


async def test_yielded_rows_are_taken_over_from_a_reactor_without_progress(harness: ReconcileHarness) -> None:
    _, others = list_overdue_beside_another_reactor(harness, 1_200)
    async with harness.running():
        await harness.advance(30.001)
        assert not any(harness.schedule.is_waiting(signal) for signal in others)
        await harness.advance(30.001)
        assert harness.reaction.sweeps == 3
        assert all(harness.schedule.is_waiting(signal) for signal in others)


async def test_a_row_yielded_at_its_notification_is_swept_30_s_later(harness: ReconcileHarness) -> None:
    """A sweep checks yielded rows 30 s after they were yielded, however long ago the last sweep was."""
    harness.schedule.rendezvous_order.set_members(uuid4(), [uuid4()])
    async with harness.running():
        await harness.advance(100.0)
        overdue_at = harness.clock.database_now() - 1.0
        others = harness.schedule.arm_own([Due(Signal("rows", uuid4().int, 1), overdue_at) for _ in range(1_200)])
        harness.schedule.yield_to_others(others)
        await idle_event()
        assert harness.ready.first_yielded in [due.signal for due in others]
        assert harness.reaction.sweeps == 1
        await harness.advance(30.001)
        assert harness.reaction.sweeps == 2


async def test_a_failed_sweep_keeps_the_yielded_rows(harness: ReconcileHarness) -> None:
    ours, others = list_overdue_beside_another_reactor(harness, 1_200)

    def fail() -> None:
        raise DatabaseUnavailable("the test took it away")

    async with harness.running():
        harness.ready.queue.take(len(ours))
        unlist(harness, ours)
        harness.reaction.while_read = fail
        harness.worker.request_refill()
        await idle_event()
        assert harness.reaction.sweeps == 2
        harness.reaction.while_read = lambda: None
        await harness.advance(1.001)
        assert all(harness.schedule.is_waiting(signal) for signal in others)


async def test_yielded_rows_are_counted_as_missed_only_once(harness: ReconcileHarness) -> None:
    harness.reconcile.expect_notifications(arrive=True)
    harness.clock.advance(60.0)
    list_overdue_beside_another_reactor(harness, 1_200)
    assert await harness.missed() == 1_200
    assert await harness.missed() == 0


async def test_rows_beyond_the_wheels_capacity_are_swept_later() -> None:
    harness = ReconcileHarness(capacity=2)
    for _ in range(3):
        harness.list_row(due_s=10.0, changed_s=0.0)
    await harness.reconcile.run_pass()
    assert harness.reconcile.has_more


# with a real database


def is_stored(settled: AttemptSettled) -> bool:
    return settled.verdict is Verdict.STORED


def assert_all_stored(app: App, uploads: Sequence[QueuedUpload]) -> None:
    for upload in uploads:
        app.assert_stored(upload)
    app.assert_usage_matches_rows()


async def test_one_pass_finds_all_work_without_notifications(app: App, recorder: Recorder) -> None:
    app.disable_triggers()
    uploads = app.queue_uploads(30)
    [later] = app.queue_uploads(next_retry_at="2100-01-01")
    [exhausted] = app.queue_uploads(retry_count=5)
    [dead] = app.queue_uploads(status="dead")
    [cancelled] = app.queue_uploads(status="cancelled")
    stale, silent = app.begin_run(timeout_at="2000-01-01"), app.begin_run(heartbeat_at="2000-01-01")
    alive = app.begin_run(timeout_at="2100-01-01")
    await app.drain(recorder)

    assert_all_stored(app, uploads)
    assert {event.run_id for event in recorder.events_of(RunExpired)} == {stale, silent}
    assert app.run(alive)["status"] == "running"
    assert recorder.events_of(Notified) == []
    assert sum(swept.missed for swept in recorder.events_of(Swept)) == 0  # without LISTEN, no row counts as missed
    for upload, status, code in (
        (later, "failed", None),
        (exhausted, "dead", "STORAGE_UPLOAD_FAILED"),
        (dead, "dead", None),
        (cancelled, "cancelled", None),
    ):
        row = app.row(upload)
        assert row is not None
        assert (row["status"], row["error_code"]) == (status, code)


async def test_a_pass_on_an_empty_database_does_nothing(app: App, recorder: Recorder) -> None:
    await app.drain(recorder)
    assert [(swept.reaction, swept.found) for swept in recorder.events_of(Swept)] == [("uploads", 0), ("runs", 0)]
    assert app.one("select count(*) from reactor.instance") == 0


async def test_a_running_reactor_counts_missed_notifications(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "_MISSED_AFTER_S", 0.0)
    async with app.running_reactor(recorder, reconcile_interval_s=0.25) as reactor:
        app.disable_triggers()
        uploads = app.queue_uploads(3)
        await recorder.wait_for_all(3, AttemptSettled, is_stored)
        assert sum(swept.missed for swept in recorder.events_of(Swept)) == 3
        assert b'reactor_reconcile_missed_total{kind="uploads"} 3.0' in await reactor.metrics()
    assert_all_stored(app, uploads)


async def test_an_expired_lease_of_a_dead_reactor_is_taken_over(app: App, recorder: Recorder) -> None:
    [upload] = app.queue_uploads(status="uploading", retry_count=1, lease_token=uuid4(), lease_expires_at="2000-01-01")
    await app.drain(recorder)
    assert recorder.events_of(Rescued) == [Rescued(retried=1, buried=0)]
    [settled] = recorder.events_of(AttemptSettled)
    assert settled.trail.attempt == 2
    assert_all_stored(app, [upload])


async def test_a_valid_lease_is_taken_over_only_after_it_expires(app: App, recorder: Recorder) -> None:
    ends_at = app.one("select clock_timestamp() + interval '1 s'")
    [upload] = app.queue_uploads(status="uploading", retry_count=1, lease_token=uuid4(), lease_expires_at=ends_at)
    async with app.running_reactor(recorder):
        started = await recorder.wait_for(AttemptStarted)
        assert app.one("select clock_timestamp()") >= ends_at
        assert started.attempt == 2
        await recorder.wait_for(AttemptSettled, is_stored)
    assert_all_stored(app, [upload])


async def test_an_expired_lease_on_the_last_retry_makes_the_upload_dead(app: App, recorder: Recorder) -> None:
    [upload] = app.queue_uploads(status="uploading", retry_count=5, lease_token=uuid4(), lease_expires_at="2000-01-01")
    await app.drain(recorder)
    assert recorder.events_of(Rescued) == [Rescued(retried=0, buried=1)]
    row = app.row(upload)
    assert row is not None
    assert (row["status"], row["error_code"]) == ("dead", "STORAGE_UPLOAD_FAILED")
    assert row["errors"][-1]["message"] == "the worker stopped without settling"
    assert app.source(upload)["storage_status"] == "failed"
    assert app.usage(upload) == (0, 0)
    assert app.is_spooled(upload)


@pytest.fixture
def _small_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_backlog, "_SWEEP_PER_TENANT", 20)
    monkeypatch.setattr(upload_backlog, "_SWEEP_LIMIT", 50)
    monkeypatch.setattr(upload_backlog, "_RESCUE_BATCH", 7)
    monkeypatch.setattr(worker, "_LOW", 10)


@pytest.mark.usefixtures("_small_sweeps")
async def test_a_backlog_larger_than_a_sweep_drains(app: App, recorder: Recorder) -> None:
    app.disable_triggers()
    of_one = app.queue_uploads(130, user=uuid4())
    of_many = app.queue_uploads(70)
    abandoned = app.queue_uploads(
        40, status="uploading", retry_count=1, lease_token=uuid4(), lease_expires_at="2000-01-01"
    )
    await app.drain(recorder)
    assert_all_stored(app, [*of_one, *of_many, *abandoned])
    before_sweep = recorder.events[: recorder.events.index(recorder.events_of(Swept)[0])]
    assert sum(event.retried for event in before_sweep if isinstance(event, Rescued)) == len(abandoned)
    assert len(recorder.events_of(AttemptStarted)) == 240


@pytest.mark.usefixtures("_small_sweeps")
async def test_a_running_reactor_drains_a_backlog_larger_than_a_sweep(app: App, recorder: Recorder) -> None:
    app.disable_triggers()
    uploads = [*app.queue_uploads(130, user=uuid4()), *app.queue_uploads(70)]
    async with app.running_reactor(recorder):
        settled = recorder.events_of(AttemptSettled)
        await recorder.wait_for_all(len(uploads) - len(settled), AttemptSettled)
    assert_all_stored(app, uploads)
    assert len(recorder.events_of(AttemptStarted)) == len(uploads)


async def test_the_first_sweep_of_a_large_backlog_is_short(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_backlog, "_SWEEP_LIMIT", 500)
    monkeypatch.setattr(upload_backlog, "_SWEEP_PER_TENANT", 500)
    app.disable_triggers()
    uploads = app.queue_uploads(60)
    async with app.running_reactor(recorder):
        settled = recorder.events_of(AttemptSettled)
        await recorder.wait_for_all(len(uploads) - len(settled), AttemptSettled)
        found = [swept.found for swept in recorder.events_of(Swept) if swept.reaction == "uploads"]
    assert found[0] == 50
    assert sum(found) >= 60  # a sweep may find a row again while the row is being claimed
    assert_all_stored(app, uploads)


async def test_a_rescan_hint_starts_a_sweep(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        app.disable_triggers()
        uploads = app.queue_uploads(5)
        run = app.begin_run(timeout_at="2000-01-01")
        app.conn.execute("""select pg_notify('reactor_runs', '{"v": 1, "at": 0, "rescan": true}')""")
        assert (await recorder.wait_for(Notified)).rows == 0
        await recorder.wait_for_all(5, AttemptSettled, is_stored)
        assert (await recorder.wait_for(RunExpired)).run_id == run
    assert_all_stored(app, uploads)


async def test_a_statement_with_very_many_rows_sends_one_rescan_hint(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        uploads = app.queue_uploads(1_001, content=b"x")
        await recorder.wait_for_all(len(uploads), AttemptSettled, is_stored)
        assert [event.rows for event in recorder.events_of(Notified)] == [0]
    assert app.one("select count(*) from public.upload_queue") == 0
    app.assert_usage_matches_rows()
