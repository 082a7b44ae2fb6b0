"""A failed upload becomes stored or dead; a run of a silent worker becomes failed."""

import os
from collections.abc import Callable, Sequence
from typing import Any, LiteralString
from uuid import uuid4

import pytest
from anyio import create_task_group
from attrs import evolve
from support.app import App, QueuedUpload
from support.recorder import Recorder
from support.stubborn_store import StubbornStore

from reactor.app import Reactor
from reactor.core.errors import DatabaseUnavailable, FileTooLarge, StorageRejected, StorageUnavailable
from reactor.core.events import (
    AttemptSettled,
    AttemptStarted,
    BreakerMoved,
    LeaseLost,
    RunExpired,
)
from reactor.core.model import Verdict
from reactor.core.refusal import Guard
from reactor.core.rendezvous import STEP_S, RendezvousOrder
from reactor.postgres import statements
from reactor.postgres.connection import ConnectionPool, DedicatedConnection

BUSY = StorageUnavailable("503 SlowDown", http_status=503)
DENIED = StorageRejected("403 AccessDenied", http_status=403, may_be_shared=True)


def is_settled(upload: QueuedUpload, verdict: Verdict) -> Callable[[AttemptSettled], bool]:
    return lambda event: event.upload_id == upload.id and event.verdict is verdict


def is_of(upload: QueuedUpload) -> Callable[[AttemptSettled], bool]:
    return lambda event: event.upload_id == upload.id


async def wait_until_stored(recorder: Recorder, *uploads: QueuedUpload) -> None:
    for upload in uploads:
        await recorder.wait_for(AttemptSettled, is_settled(upload, Verdict.STORED))


async def wait_until_dead(recorder: Recorder, upload: QueuedUpload) -> AttemptSettled:
    return await recorder.wait_for(AttemptSettled, is_settled(upload, Verdict.DEAD))


def assert_dead(app: App, upload: QueuedUpload, code: str, *, attempts: int = 1) -> None:
    """Assert that an upload is dead: the row has the reason, the reservation is released, and no object is stored."""
    row = app.row(upload)
    assert row is not None
    assert (row["status"], row["error_code"], row["retry_count"]) == ("dead", code, attempts)
    assert row["error_message"]
    assert [error["attempt"] for error in row["errors"]] == list(range(1, attempts + 1))
    assert row["lease_token"] is None
    assert app.source(upload)["storage_status"] == "failed"
    assert app.usage(upload) == (0, 0)
    assert not app.stored_path(upload).exists()


# stored


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
async def test_a_failed_upload_is_stored(app: App, store: StubbornStore, recorder: Recorder, size: int) -> None:
    async with app.running_reactor(recorder, store=store):
        [upload] = app.queue_uploads(content=os.urandom(size))
        assert app.usage(upload) == (0, size) if size else True
        await wait_until_stored(recorder, upload)
    app.assert_stored(upload)
    assert app.usage(upload) == (size, 0) if size else True
    assert store.puts[upload.key] == 1
    app.assert_usage_matches_rows()


async def test_an_upload_that_was_queued_before_the_start_is_stored(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    [upload] = app.queue_uploads()
    async with app.running_reactor(recorder, store=store):
        if not recorder.events_of(AttemptSettled):
            await wait_until_stored(recorder, upload)
    app.assert_stored(upload)


async def test_an_upload_whose_object_already_exists_is_stored_again(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    """A reactor that crashes between a put and its settlement leaves the object in the store."""
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            app.stored_path(upload).parent.mkdir()
            app.stored_path(upload).write_bytes(b"half an object")
        await wait_until_stored(recorder, upload)
    app.assert_stored(upload)


# retried


async def test_transient_failures_back_off_and_then_succeed(app: App, store: StubbornStore, recorder: Recorder) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, BUSY, BUSY, BUSY)
        retries = await recorder.wait_for_all(3, AttemptSettled, is_settled(upload, Verdict.RETRY))
        assert [retry.outcome.delay_s for retry in retries] == [0.1, 0.2, 0.4]
        assert [retry.trail.attempt for retry in retries] == [1, 2, 3]
        assert {retry.outcome.code for retry in retries} == {"STORAGE_UNAVAILABLE"}
        row = app.row(upload)
        assert row is not None
        assert [error["code"] for error in row["errors"]] == ["STORAGE_UNAVAILABLE"] * 3
        assert app.usage(upload) == (0, len(upload.content))
        await wait_until_stored(recorder, upload)
        late = recorder.events_of(AttemptStarted, lambda started: started.attempt > 1)
        assert all(0 <= started.lag_s < 1.0 for started in late)
    app.assert_stored(upload)
    assert store.puts[upload.key] == 4


async def test_a_retry_never_comes_early(app: App, store: StubbornStore, recorder: Recorder) -> None:
    async with app.running_reactor(recorder, store=store, retry_base_s=0.5):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, BUSY)
        await recorder.wait_for(AttemptSettled, is_settled(upload, Verdict.RETRY))
        row = app.row(upload)
        assert row is not None
        due_at = row["next_retry_at"]
        await recorder.wait_for(AttemptStarted, lambda started: started.attempt == 2)
        assert app.one("select clock_timestamp()") >= due_at
        await wait_until_stored(recorder, upload)


@pytest.mark.parametrize(("retry_after_s", "delay_s"), [(0.75, 0.75), (0.01, 0.1)])
async def test_the_longer_of_backoff_and_retry_after_wins(
    app: App, store: StubbornStore, recorder: Recorder, retry_after_s: float, delay_s: float
) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, StorageUnavailable("429", http_status=429, retry_after_s=retry_after_s))
        retry = await recorder.wait_for(AttemptSettled, is_settled(upload, Verdict.RETRY))
        assert retry.outcome.delay_s == delay_s
        await wait_until_stored(recorder, upload)
    app.assert_stored(upload)


async def test_an_attempt_without_an_answer_times_out_and_is_retried(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    async with app.running_reactor(recorder, store=store, attempt_timeout_s=0.2):
        store.open.clear()
        [upload] = app.queue_uploads()
        retry = await recorder.wait_for(AttemptSettled, is_settled(upload, Verdict.RETRY))
        assert retry.outcome.message == "no answer within 0.2 s"
        store.open.set()
        await wait_until_stored(recorder, upload)
    app.assert_stored(upload)


async def test_an_upload_is_dead_after_max_retries(app: App, store: StubbornStore, recorder: Recorder) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads(max_retries=3)
            store.fail(upload.key, *[BUSY] * 10)
        dead = await wait_until_dead(recorder, upload)
        assert dead.outcome.code == "STORAGE_UPLOAD_FAILED"
        assert dead.outcome.message is not None
        assert "STORAGE_UNAVAILABLE: 503 SlowDown" in dead.outcome.message
    assert_dead(app, upload, "STORAGE_UPLOAD_FAILED", attempts=3)
    assert app.is_spooled(upload)
    assert store.puts[upload.key] == 3


async def test_a_denied_upload_is_retried_once(app: App, store: StubbornStore, recorder: Recorder) -> None:
    """Credentials may be rotating, so only the second denial in a row is final."""
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            rotated, denied = app.queue_uploads(2)
            store.fail(rotated.key, DENIED)
            store.fail(denied.key, DENIED, DENIED)
        await wait_until_stored(recorder, rotated)
        await wait_until_dead(recorder, denied)
    app.assert_stored(rotated)
    assert_dead(app, denied, "STORAGE_REJECTED", attempts=2)
    assert app.is_spooled(denied)
    assert store.puts[denied.key] == 2


# dead


def _remove(app: App, upload: QueuedUpload) -> None:
    (app.spool / upload.key).unlink()


def _replace_by_link(app: App, upload: QueuedUpload) -> None:
    path = app.spool / upload.key
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _replace_by_folder(app: App, upload: QueuedUpload) -> None:
    _remove(app, upload)
    (app.spool / upload.key).mkdir()


def _change_bytes(app: App, upload: QueuedUpload) -> None:
    (app.spool / upload.key).write_bytes(bytes(len(upload.content)))


def _shorten(app: App, upload: QueuedUpload) -> None:
    (app.spool / upload.key).write_bytes(upload.content[:-1])


def _lengthen(app: App, upload: QueuedUpload) -> None:
    (app.spool / upload.key).write_bytes(upload.content + b"x")


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_remove, "SPOOL_FILE_MISSING"),
        (_replace_by_link, "SPOOL_PATH_FORBIDDEN"),
        (_replace_by_folder, "SPOOL_PATH_FORBIDDEN"),
        (_change_bytes, "CONTENT_MISMATCH"),
        (_shorten, "CONTENT_MISMATCH"),
        (_lengthen, "CONTENT_MISMATCH"),
    ],
)
async def test_an_upload_with_a_spoiled_file_is_dead_at_once(
    app: App,
    store: StubbornStore,
    recorder: Recorder,
    spoil: Callable[[App, QueuedUpload], None],
    code: str,
) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            spoil(app, upload)
        assert (await wait_until_dead(recorder, upload)).outcome.code == code
    assert_dead(app, upload, code)
    assert app.is_spooled(upload) == (spoil is not _remove)


@pytest.mark.parametrize("path", ["../store/canary", "/etc/passwd", "a/../../canary", "", ".", "..", "/", "nul\x01/x"])
async def test_an_upload_with_a_path_outside_the_spool_is_dead_and_nothing_is_read(
    app: App, store: StubbornStore, recorder: Recorder, path: str
) -> None:
    canary = app.store / "canary"
    canary.write_bytes(b"canary")
    async with app.running_reactor(recorder, store=store):
        [upload] = app.queue_uploads(content=b"canary", temp_file_path=path)
        dead = await wait_until_dead(recorder, upload)
        assert dead.outcome.code in {"SPOOL_PATH_FORBIDDEN", "SPOOL_FILE_MISSING"}
        assert path == "" or len(path) < 3 or path not in (dead.outcome.message or "")
    assert_dead(app, upload, dead.outcome.code)
    assert app.is_spooled(upload)
    assert canary.read_bytes() == b"canary"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageRejected("404 NoSuchBucket", http_status=404), "STORAGE_REJECTED"),
        (FileTooLarge("413 EntityTooLarge"), "FILE_TOO_LARGE"),
    ],
)
async def test_an_upload_that_the_store_rejects_is_dead_at_once(
    app: App,
    store: StubbornStore,
    recorder: Recorder,
    error: StorageRejected | FileTooLarge,
    code: str,
) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, error)
        await wait_until_dead(recorder, upload)
    assert_dead(app, upload, code)
    assert app.is_spooled(upload)


async def test_invalid_rows_do_not_harm_others(app: App, store: StubbornStore, recorder: Recorder) -> None:
    """An invalid row becomes dead, or stored if only its traceparent is invalid. Valid uploads are attempted once."""
    invalid_columns = (
        {"spool": "no such spool"},
        {"content_hash": "not a hash"},
        {"temp_file_path": None},
        {"temp_file_path": "x" * 5_000},
        {"bucket": "../.."},
        {"bucket": ""},
        {"object_path": "../../escape"},
        {"object_path": "a//b/\x01"},
        {"byte_size": 2**62},
        {"traceparent": "nonsense"},
        {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01"},
        {"content_hash": None, "temp_file_path": "/dev/zero"},
    )
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            bad = [app.queue_uploads(**columns)[0] for columns in invalid_columns]
            good = app.queue_uploads(20)
        await wait_until_stored(recorder, *good)
        for upload in bad:
            event = await recorder.wait_for(AttemptSettled, is_of(upload))
            assert event.verdict in {Verdict.DEAD, Verdict.STORED}
    for upload in good:
        app.assert_stored(upload)
        assert store.puts[upload.key] == 1
    assert {row["status"] for row in app.all("select status from public.upload_queue")} == {"dead"}
    app.assert_usage_matches_rows()
    assert not (app.store.parent / "escape").exists()


# an outage


async def test_an_outage_costs_each_upload_at_most_one_attempt(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    async with app.running_reactor(recorder, store=store, upload_concurrency=4, retry_base_s=0.2):
        store.is_down = True
        uploads = app.queue_uploads(60)
        opened = await recorder.wait_for(BreakerMoved)
        assert (opened.place, opened.is_open) == ((Guard.STORE, "file"), True)
        recorder.skip_recorded()
        # a failed probe isn't counted as an attempt; uploads that were deferred without a put have no error code
        probe = await recorder.wait_for(AttemptStarted)
        failed = await recorder.wait_for(AttemptSettled, lambda event: event.upload_id == probe.upload_id)
        assert (failed.verdict, failed.outcome.code) == (Verdict.DEFERRED, "STORAGE_UNAVAILABLE")
        store.is_down = False
        assert not (await recorder.wait_for(BreakerMoved)).is_open
        await wait_until_stored(recorder, *uploads)
    spent = recorder.events_of(AttemptSettled, lambda event: event.verdict is Verdict.RETRY)
    assert len({event.upload_id for event in spent}) == len(spent) < 20
    for upload in uploads:
        app.assert_stored(upload)
    assert len(recorder.events_of(BreakerMoved)) == 2
    app.assert_usage_matches_rows()


# runs


async def test_a_run_past_its_deadline_is_failed(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        timeout_at = app.one("select clock_timestamp() + interval '0.4 s'")
        run = app.begin_run(timeout_at=timeout_at)
        expired = await recorder.wait_for(RunExpired)
        assert (expired.run_id, expired.code) == (run, "INTERPRETATION_TIMEOUT")
        assert 0 <= expired.late_s < 1.0
    row = app.run(run)
    assert (row["status"], row["error_code"]) == ("failed", "INTERPRETATION_TIMEOUT")
    assert row["completed_at"] >= timeout_at
    assert row["error_message"]


async def test_a_run_without_a_heartbeat_is_failed(app: App, recorder: Recorder) -> None:
    """The row's heartbeat timeout applies, or the reactor's default if the row has none."""
    async with app.running_reactor(recorder, heartbeat_timeout_s=0.6):
        own = app.begin_run(timeout_at="2100-01-01", heartbeat_timeout="0.2 s")
        default = app.begin_run(timeout_at="2100-01-01")
        first = await recorder.wait_for(RunExpired)
        second = await recorder.wait_for(RunExpired)
        assert [first.run_id, second.run_id] == [own, default]
        assert {first.code, second.code} == {"INTERPRETATION_HEARTBEAT_LOST"}
        assert all(0 <= expired.late_s < 1.0 for expired in (first, second))


async def test_a_healthy_run_is_never_failed(app: App, recorder: Recorder) -> None:
    """A healthy run sends heartbeats while runs with earlier and later deadlines are failed."""
    heartbeat = "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = %s"
    async with app.running_reactor(recorder, reconcile_interval_s=0.2):
        healthy = app.begin_run(timeout_at="2100-01-01", heartbeat_timeout="0.5 s")
        for _ in range(8):
            app.conn.execute(heartbeat, (healthy,))
            stale = app.begin_run(
                timeout_at=app.one("select clock_timestamp() + interval '0.15 s'"),
            )
            assert (await recorder.wait_for(RunExpired)).run_id == stale
        assert app.run(healthy)["status"] == "running"
        expired = await recorder.wait_for(RunExpired)  # its heartbeats have stopped
        assert (expired.run_id, expired.code) == (healthy, "INTERPRETATION_HEARTBEAT_LOST")


async def test_a_run_that_ends_or_gets_more_time_is_not_failed(app: App, recorder: Recorder) -> None:
    soon = app.one("select clock_timestamp() + interval '0.4 s'")
    async with app.running_reactor(recorder):
        ended, prolonged = app.begin_run(timeout_at=soon), app.begin_run(timeout_at=soon)
        app.conn.execute("update public.interpretation_runs set status = 'completed' where id = %s", (ended,))
        app.conn.execute(
            "update public.interpretation_runs set timeout_at = timeout_at + interval '1 day' where id = %s",
            (prolonged,),
        )
        later = app.begin_run(timeout_at=app.one("select %s::timestamptz + interval '0.2 s'", soon))
        assert (await recorder.wait_for(RunExpired)).run_id == later
        assert len(recorder.events_of(RunExpired)) == 1
    assert app.run(ended)["status"] == "completed"
    assert app.run(prolonged)["status"] == "running"


async def test_a_deadline_that_moves_earlier_is_met(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        run = app.begin_run(timeout_at="2100-01-01")
        app.conn.execute(
            "update public.interpretation_runs set timeout_at = clock_timestamp() + interval '0.3 s' where id = %s",
            (run,),
        )
        expired = await recorder.wait_for(RunExpired)
        assert expired.run_id == run
        assert 0 <= expired.late_s < 1.0


async def test_a_run_without_heartbeats_is_failed_only_at_its_deadline(app: App, recorder: Recorder) -> None:
    """A run without heartbeats and without a deadline is never failed."""
    late, timeless = app.begin_run(timeout_at="2000-01-01"), app.begin_run()
    app.conn.execute(
        "update public.interpretation_runs set heartbeat_at = null, started_at = '2000-01-01' where status = 'running'"
    )
    async with app.running_reactor(recorder, heartbeat_timeout_s=0.1):
        if not recorder.events_of(RunExpired):  # the event may have been recorded already
            await recorder.wait_for(RunExpired)
        assert [event.run_id for event in recorder.events_of(RunExpired)] == [late]
        assert app.run(timeless)["status"] == "running"
    assert app.run(late)["error_code"] == "INTERPRETATION_TIMEOUT"


# several reactors


async def test_two_reactors_attempt_each_upload_once(app: App, store: StubbornStore, recorder: Recorder) -> None:
    async with app.running_reactor(recorder, store=store), app.running_reactor(recorder, store=store):
        uploads = [*app.queue_uploads(100), *app.queue_uploads(60, user=uuid4())]
        await wait_until_stored(recorder, *uploads)
    for upload in uploads:
        app.assert_stored(upload)
        assert store.puts[upload.key] == 1
    assert len(recorder.events_of(AttemptStarted)) == len(uploads)
    app.assert_usage_matches_rows()


async def test_an_undetected_dead_reactor_delays_its_share_by_one_rendezvous_step(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    """The dead reactor is still recorded as listening, so it ranks first for half of all rows."""
    dead, order = uuid4(), RendezvousOrder()
    app.conn.execute(
        "insert into reactor.instance (id, host, version, mode) values (%s, 'gone', '0', 'listening')", (dead,)
    )
    async with app.running_reactor(recorder, store=store):
        order.set_members(app.one("select id from reactor.instance where id <> %s", dead), [dead])
        uploads = app.queue_uploads(40)
        await wait_until_stored(recorder, *uploads)
    delayed = {upload.id for upload in uploads if order.delay_s(upload.id.int)}
    assert 0 < len(delayed) < len(uploads)
    for event in recorder.events_of(AttemptStarted):
        assert event.upload_id not in delayed or event.lag_s >= STEP_S - 0.01  # the clocks may differ


async def test_uploads_of_a_killed_reactor_are_taken_over_after_their_lease(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    first, other_store = Recorder(), StubbornStore(app.store)
    doomed = Reactor(evolve(app.settings, lease_s=1.5), store=store, listener=first)
    store.open.clear()
    async with create_task_group() as tasks:
        await app.start(doomed, first, tasks)
        uploads = app.queue_uploads(6)
        await first.wait_for_all(6, AttemptStarted)
        tasks.cancel_scope.cancel()  # the reactor isn't deregistered, keeps its leases, and its threads continue
    ends = app.all("select lease_expires_at as at from public.upload_queue where status = 'uploading'")
    assert len(ends) == len(uploads)
    async with app.running_reactor(recorder, store=other_store):
        await recorder.wait_for(AttemptStarted)
        assert app.one("select clock_timestamp()") >= min(end["at"] for end in ends)
        await wait_until_stored(recorder, *uploads)
        store.open.set()  # the puts of the killed reactor end now; they wrote the same bytes and change nothing
    assert {event.trail.attempt for event in recorder.events_of(AttemptSettled)} == {2}
    for upload in uploads:
        app.assert_stored(upload)
    app.assert_usage_matches_rows()


async def test_a_claim_whose_answer_was_lost_costs_no_attempt_and_no_wait(
    app: App, store: StubbornStore, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two claims commit, but their answers are lost. The third claim must not wait for the lease of 60 s."""
    call, lost = DedicatedConnection.call, 2

    async def lose_answers(
        connection: DedicatedConnection, statement: LiteralString, parameters: Sequence[Any] = ()
    ) -> list[Any]:
        nonlocal lost
        rows = await call(connection, statement, parameters)
        if lost:
            lost -= 1
            raise DatabaseUnavailable("the test lost the answer")
        return rows

    monkeypatch.setattr(DedicatedConnection, "call", lose_answers)
    async with app.running_reactor(recorder, store=store, lease_s=60.0):
        uploads = app.queue_uploads(5)
        await wait_until_stored(recorder, *uploads)
    assert lost == 0
    assert {event.trail.attempt for event in recorder.events_of(AttemptSettled)} == {1}
    for upload in uploads:
        app.assert_stored(upload)


async def test_a_settlement_whose_answer_was_lost_still_removes_the_spooled_file(
    app: App, store: StubbornStore, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, lost = ConnectionPool.call, 2

    async def lose_answers(
        database: ConnectionPool, statement: LiteralString, parameters: Sequence[Any] = ()
    ) -> list[Any]:
        nonlocal lost
        rows = await call(database, statement, parameters)
        if lost and statement == statements.SETTLE_UPLOADS:
            lost -= 1
            raise DatabaseUnavailable("the test lost the answer")
        return rows

    monkeypatch.setattr(ConnectionPool, "call", lose_answers)
    async with app.running_reactor(recorder, store=store):
        uploads = app.queue_uploads(5)
        await wait_until_stored(recorder, *uploads)
    assert lost == 0
    assert not recorder.events_of(LeaseLost)
    for upload in uploads:
        app.assert_stored(upload)


@pytest.mark.parametrize("answers", [[BUSY], []], ids=["failed", "stored"])
async def test_a_reactor_that_lost_its_lease_changes_nothing(
    app: App, store: StubbornStore, recorder: Recorder, answers: list[StorageUnavailable]
) -> None:
    """The reactor's settlement has no effect, and the reactor emits LeaseLost.

    The reactor keeps the spooled file even if its put succeeded, because the lease's new holder still needs the file.
    """
    store.open.clear()
    async with app.running_reactor(recorder, store=store):
        [upload] = app.queue_uploads()
        await recorder.wait_for(AttemptStarted)
        app.conn.execute(
            "update public.upload_queue set lease_token = gen_random_uuid(),"
            " lease_expires_at = clock_timestamp() + interval '1 s'"
        )
        store.fail(upload.key, *answers)
        store.open.set()
        assert (await recorder.wait_for(LeaseLost)).upload_id == upload.id
        row = app.row(upload)
        assert row is not None
        assert (row["status"], row["errors"]) == ("uploading", [])
        again = await recorder.wait_for(AttemptSettled)  # after the other lease has expired
        assert (again.verdict, again.outcome.code) == (Verdict.STORED, None)
    app.assert_stored(upload)
    assert store.puts[upload.key] == 2


async def test_shutdown_hands_back_uploads_that_it_cannot_finish(
    app: App, store: StubbornStore, recorder: Recorder
) -> None:
    store.open.clear()
    async with app.running_reactor(recorder, store=store, shutdown_grace_s=0.1, upload_concurrency=2):
        uploads = app.queue_uploads(5)
        await recorder.wait_for_all(2, AttemptStarted)
    store.open.set()
    for upload in uploads:
        row = app.row(upload)
        assert row is not None
        assert (row["status"], row["retry_count"], row["lease_token"]) == ("failed", 0, None)
    assert app.one("select count(*) from reactor.instance") == 0
    await app.drain(store=store)
    for upload in uploads:
        app.assert_stored(upload)
