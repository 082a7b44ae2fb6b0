"""The triggers send the right notifications. Sending a notification never makes the app's write fail."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from support.rows import NotificationLog, Rows, notification_log, rows_of
from support.small_queue import fill, small_queue, stuck_listener

from reactor.postgres.notification import MAX_BYTES, decode

EXTREMES = ["infinity", "-infinity", "294276-12-31 23:59:59+00", "4714-11-24 00:00:00+00 BC", "1970-01-01", None]


@pytest.fixture
def notifications(migrated_url: str) -> Iterator[NotificationLog]:
    with notification_log(migrated_url) as notifications:
        yield notifications


def hash_of(rows: Rows, user: UUID) -> int:
    tenant: int = rows.one("select uuid_hash(%s) as tenant", (user,)).tenant
    return tenant


# uploads


def test_a_failed_upload_is_notified_at_its_commit_with_its_id_tenant_and_due_time(
    rows: Rows, notifications: NotificationLog
) -> None:
    user = uuid4()
    with rows.conn.transaction():
        upload = rows.upload(user, next_retry_at=rows.at(40))
        assert notifications.uploads() == []
    (payload,) = notifications.uploads()
    (hint,) = payload.hints
    assert (hint.row_id, hint.tenant) == (upload, hash_of(rows, user))
    assert hint.due_ms == pytest.approx(rows.upload_row(upload).next_retry_at.timestamp() * 1000, abs=5)


def test_the_hint_of_a_due_upload_says_due_now(rows: Rows, notifications: NotificationLog) -> None:
    before_ms = rows.at(0).timestamp() * 1000
    rows.upload(next_retry_at=rows.at(-3600))
    (hint,) = notifications.uploads()[0].hints
    assert hint.due_ms is not None
    assert before_ms - 1 <= hint.due_ms <= rows.at(0).timestamp() * 1000 + 1


def test_an_upload_that_is_rolled_back_is_not_notified(rows: Rows, notifications: NotificationLog) -> None:
    with rows.conn.transaction():
        rows.upload()
        rows.start_run()
        raise psycopg.Rollback
    assert notifications.payloads("reactor_uploads") == []


def test_a_run_that_is_rolled_back_is_not_notified(rows: Rows, notifications: NotificationLog) -> None:
    with rows.conn.transaction():
        rows.start_run()
        raise psycopg.Rollback
    assert notifications.payloads("reactor_runs") == []


def test_a_thousand_uploads_of_one_statement_make_a_few_small_notifications(
    rows: Rows, notifications: NotificationLog
) -> None:
    uploads = rows.uploads(1000)
    payloads = notifications.payloads("reactor_uploads")
    assert len(payloads) <= 11
    assert max(len(text.encode()) for text in payloads) < MAX_BYTES
    hinted = [hint.row_id for text in payloads for hint in decode(text).hints]
    assert sorted(hinted) == sorted(uploads)


def test_more_than_a_thousand_uploads_of_one_statement_make_one_rescan(
    rows: Rows, notifications: NotificationLog
) -> None:
    rows.uploads(1001)
    (payload,) = notifications.uploads()
    assert payload.rescan
    assert payload.hints == ()


def test_a_statement_that_requeues_many_uploads_makes_a_few_notifications(
    rows: Rows, notifications: NotificationLog
) -> None:
    rows.uploads(250)
    rows.run("update public.upload_queue set status = 'dead'")
    notifications.payloads("reactor_uploads")
    rows.run("update public.upload_queue set status = 'failed'")
    assert sorted(len(payload.hints) for payload in notifications.uploads()) == [50, 100, 100]


def test_the_widest_values_still_fit_into_a_notification(rows: Rows, notifications: NotificationLog) -> None:
    """Each notification has 100 rows with the longest hash and the latest due time."""
    widest = next(user for user in iter(uuid4, None) if hash_of(rows, user) <= -1_000_000_000)
    rows.run(
        "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size, next_retry_at)"
        " select %s, %s, repeat('b', 5000), repeat('ü', 9000), 9223372036854775807, 'infinity'"
        " from generate_series(1, 200)",
        (rows.source(widest), widest),
    )
    texts = notifications.payloads("reactor_uploads")
    assert [len(decode(text).hints) for text in texts] == [100, 100]
    assert max(len(text.encode()) for text in texts) < MAX_BYTES


def test_uploads_that_are_not_waiting_are_not_notified(rows: Rows, notifications: NotificationLog) -> None:
    for status in ("dead", "cancelled", "uploading"):
        rows.upload(status=status)
    assert notifications.payloads("reactor_uploads") == []


def test_the_reactors_own_claims_leases_and_settlements_are_not_notified(
    rows: Rows, notifications: NotificationLog
) -> None:
    retried, dead, stored = (rows.upload() for _ in range(3))
    token = uuid4()
    notifications.payloads("reactor_uploads")
    assert len(rows.claim([retried, dead, stored], token)) == 3
    assert rows.extend([retried], [token]) == {retried}
    rows.settle([(retried, token, "retry"), (dead, token, "dead"), (stored, token, "stored")])
    assert notifications.payloads("reactor_uploads") == []


def test_an_upload_that_is_deferred_and_due_now_is_notified(rows: Rows, notifications: NotificationLog) -> None:
    upload, token = rows.upload(), uuid4()
    rows.claim([upload], token)
    notifications.payloads("reactor_uploads")
    rows.settle([(upload, token, "deferred")], delay_s=0)
    assert [hint.row_id for payload in notifications.uploads() for hint in payload.hints] == [upload]


def test_an_upload_rescued_from_an_expired_lease_is_notified(rows: Rows, notifications: NotificationLog) -> None:
    upload = rows.upload()
    rows.claim([upload], lease_s=-1)
    notifications.payloads("reactor_uploads")
    assert rows.rescue([upload]) == {upload: "retry"}
    assert [hint.row_id for payload in notifications.uploads() for hint in payload.hints] == [upload]


@pytest.mark.parametrize("status", ["dead", "cancelled"])
def test_an_upload_that_an_operator_requeues_is_notified(
    rows: Rows, notifications: NotificationLog, status: str
) -> None:
    upload = rows.upload(status=status)
    rows.all("select reactor.requeue_uploads(%s)", ([upload],))
    assert [hint.row_id for payload in notifications.uploads() for hint in payload.hints] == [upload]


def test_an_upload_moved_earlier_is_notified_and_one_moved_later_is_not(
    rows: Rows, notifications: NotificationLog
) -> None:
    upload = rows.upload(next_retry_at=rows.at(500))
    notifications.payloads("reactor_uploads")
    rows.run("update public.upload_queue set next_retry_at = next_retry_at + interval '1 hour'")
    assert notifications.payloads("reactor_uploads") == []
    rows.run("update public.upload_queue set next_retry_at = next_retry_at - interval '65 minutes'")
    (hint,) = notifications.uploads()[0].hints
    assert hint.row_id == upload
    assert hint.due_ms == pytest.approx(rows.upload_row(upload).next_retry_at.timestamp() * 1000, abs=5)


@pytest.mark.parametrize("moment", EXTREMES[:-1])
def test_no_due_time_fails_the_apps_write_or_makes_a_hint_unreadable(
    rows: Rows, notifications: NotificationLog, moment: str
) -> None:
    made = rows.upload(next_retry_at=moment)
    moved = rows.upload(next_retry_at=rows.at(60))
    rows.run("update public.upload_queue set next_retry_at = %s where id = %s", (moment, moved))
    hinted = {hint.row_id for payload in notifications.uploads() for hint in payload.hints}
    assert {made, moved} <= hinted


@pytest.mark.parametrize(
    "due_at",
    ["statement_timestamp()", "clock_timestamp()", "statement_timestamp() - interval '1 s'", "timestamptz '-infinity'"],
)
def test_a_hints_due_time_is_never_before_its_statement(rows: Rows, due_at: LiteralString) -> None:
    """If one time were negative, the reactor would reject the whole payload, with up to 99 other rows."""
    figures = rows.all(
        f"select (reactor.hint(gen_random_uuid(), gen_random_uuid(), {due_at})::jsonb ->> 2)::int as due"
        " from generate_series(1, 5000)"
    )
    assert min(row.due for row in figures) >= 0
    assert max(row.due for row in figures) < 10_000


def test_a_hint_is_never_early_and_less_than_2_ms_late_however_long_its_statement_takes(
    rows: Rows, notifications: NotificationLog
) -> None:
    """After an early hint the claim must be repeated. A late hint delays the upload."""
    user = uuid4()
    with rows.conn.transaction():
        sources = [rows.source(user) for _ in range(100)]
    due_of = {
        row.id: row.due_ms
        for row in rows.all(
            "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size, next_retry_at)"
            " select s, %s, 'bucket', 'path', 1, clock_timestamp() + interval '10 s'"
            "   from unnest(%s::uuid[]) as s"
            " returning id, 1000 * extract(epoch from next_retry_at)::float8 as due_ms",
            (user, sources),
        )
    }
    late_ms = [
        hint.due_ms - due_of[hint.row_id]
        for payload in notifications.uploads()
        for hint in payload.hints
        if hint.due_ms
    ]
    assert len(late_ms) == 100
    assert min(late_ms) >= -0.001  # rounding of the floating point numbers
    assert max(late_ms) < 2


# runs


def test_a_run_that_starts_is_notified_with_its_deadline(rows: Rows, notifications: NotificationLog) -> None:
    user = uuid4()
    run = rows.start_run(user, timeout_at=rows.at(600), heartbeat_timeout=timedelta(seconds=45))
    (hint,) = notifications.runs()[0].hints
    assert (hint.row_id, hint.tenant, hint.heartbeat_ms) == (run, hash_of(rows, user), None)
    row = rows.run_row(run)
    assert hint.due_ms == pytest.approx((row.heartbeat_at.timestamp() + 45) * 1000, abs=5)


def test_the_hint_of_a_run_without_a_heartbeat_timeout_has_its_last_heartbeat(
    rows: Rows, notifications: NotificationLog
) -> None:
    run = rows.start_run(timeout_at=rows.at(600))
    (hint,) = notifications.runs()[0].hints
    row = rows.run_row(run)
    assert hint.heartbeat_ms == pytest.approx(row.heartbeat_at.timestamp() * 1000, abs=50)
    assert hint.due_ms == pytest.approx(row.timeout_at.timestamp() * 1000, abs=5)


def test_a_run_without_a_time_limit_is_notified_without_a_due_time(rows: Rows, notifications: NotificationLog) -> None:
    rows.start_run()
    (hint,) = notifications.runs()[0].hints
    assert hint.due_ms is None
    assert hint.heartbeat_ms is not None


def test_a_pending_run_is_notified_when_it_starts(rows: Rows, notifications: NotificationLog) -> None:
    run = rows.start_run(status="pending", timeout_at=rows.at(600))
    assert notifications.payloads("reactor_runs") == []
    rows.run("update public.interpretation_runs set status = 'running' where id = %s", (run,))
    ((hint,),) = (payload.hints for payload in notifications.runs())
    assert (hint.row_id, hint.heartbeat_ms is None) == (run, False)  # heartbeat_at is set when the run starts


def test_the_first_heartbeat_after_a_start_by_update_is_not_notified(
    rows: Rows, notifications: NotificationLog
) -> None:
    run = rows.start_run(status="pending")
    rows.run("update public.interpretation_runs set status = 'running' where id = %s", (run,))
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set heartbeat_at = clock_timestamp()")
    assert notifications.payloads("reactor_runs") == []


def test_the_table_of_runs_has_no_before_update_trigger(rows: Rows) -> None:
    """Because of such a trigger, on any column, PostgreSQL would lock the row before each UPDATE of a heartbeat."""
    row, before, update = 1, 2, 16  # bits of tgtype, from PostgreSQL's catalog/pg_trigger.h
    named = rows.all(
        "select tgname from pg_trigger where tgrelid = 'public.interpretation_runs'::regclass and tgtype & %s = %s",
        (row | before | update, row | before | update),
    )
    assert named == []


def test_only_heartbeats_have_a_when_clause(rows: Rows) -> None:
    """In each UPDATE, PostgreSQL copies the text of all triggers' WHEN clauses, even of triggers on other columns."""
    guarded = rows.all(
        "select tgname from pg_trigger where tgrelid = 'public.interpretation_runs'::regclass and tgqual is not null"
    )
    assert [trigger.tgname for trigger in guarded] == ["reactor_notify_heartbeat"]


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_run_that_ends_is_notified_without_a_due_time(
    rows: Rows, notifications: NotificationLog, status: str
) -> None:
    run = rows.start_run(timeout_at=rows.at(600))
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set status = %s where id = %s", (status, run))
    (hint,) = notifications.runs()[0].hints
    assert hint.row_id == run
    assert (hint.due_ms, hint.heartbeat_ms) == (None, None)


def test_a_run_that_an_apps_trigger_deletes_when_it_ends_is_notified_without_a_due_time(
    rows: Rows, notifications: NotificationLog
) -> None:
    run = rows.start_run(timeout_at=rows.at(600))
    rows.conn.execute(
        "create function public.forget() returns trigger language plpgsql as $$ begin"
        "  delete from public.interpretation_runs where id = new.id; return null;"
        " end $$; create trigger before_ours after update of status on public.interpretation_runs"
        " for each row execute function public.forget()"
    )
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set status = 'completed' where id = %s", (run,))
    ((hint,),) = (payload.hints for payload in notifications.runs())
    assert (hint.row_id, hint.due_ms, hint.heartbeat_ms) == (run, None, None)


@pytest.mark.parametrize(
    "change",
    [
        "timeout_at = timeout_at - interval '1 minute'",
        "heartbeat_timeout = interval '5 seconds'",
        "heartbeat_at = heartbeat_at - interval '1 millisecond'",
        "heartbeat_at = heartbeat_at + interval '1 minute'",
    ],
)
def test_a_deadline_that_may_be_earlier_is_notified(
    rows: Rows, notifications: NotificationLog, change: LiteralString
) -> None:
    run = rows.start_run(timeout_at=rows.at(600), started_at="2026-01-01 12:00:30+00")
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set " + change)
    assert [hint.row_id for payload in notifications.runs() for hint in payload.hints] == [run]


@pytest.mark.parametrize("change", ["timeout_at = timeout_at + interval '1 minute'", "error_message = 'a note'"])
def test_a_change_that_makes_no_deadline_earlier_is_not_notified(
    rows: Rows, notifications: NotificationLog, change: LiteralString
) -> None:
    rows.start_run(timeout_at=rows.at(600))
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set " + change)
    assert notifications.payloads("reactor_runs") == []


def test_a_first_time_limit_is_notified(rows: Rows, notifications: NotificationLog) -> None:
    run = rows.start_run()
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set timeout_at = now() + interval '1 minute'")
    assert [hint.row_id for payload in notifications.runs() for hint in payload.hints] == [run]


def test_a_first_heartbeat_is_notified(rows: Rows, notifications: NotificationLog) -> None:
    run = rows.start_run(timeout_at=rows.at(600))
    rows.run("update public.interpretation_runs set heartbeat_at = null")  # like a run from before the migration
    notifications.payloads("reactor_runs")
    rows.run("update public.interpretation_runs set heartbeat_at = now()")
    assert [hint.row_id for payload in notifications.runs() for hint in payload.hints] == [run]


def test_heartbeats_within_a_minute_of_a_notified_one_are_not_notified(
    rows: Rows, notifications: NotificationLog
) -> None:
    rows.start_run(started_at="2026-01-01 12:00:30+00")
    notifications.payloads("reactor_runs")
    notified = []
    for second in range(185):
        rows.run("update public.interpretation_runs set heartbeat_at = started_at + %s", (timedelta(seconds=second),))
        if notifications.payloads("reactor_runs"):
            notified.append(second)
    assert notified == [60, 120, 180]


@pytest.mark.parametrize("back", ["1 millisecond", "30 seconds", "1 hour"])
def test_every_heartbeat_that_goes_back_is_notified(rows: Rows, notifications: NotificationLog, back: str) -> None:
    """Such a heartbeat is notified even if another one was notified within the same minute."""
    rows.start_run(started_at="2026-01-01 12:00:30+00")
    rows.run("update public.interpretation_runs set heartbeat_at = heartbeat_at + interval '59 seconds'")
    notifications.payloads("reactor_runs")
    for _ in range(3):
        rows.run("update public.interpretation_runs set heartbeat_at = heartbeat_at - %s::interval", (back,))
        assert len(notifications.payloads("reactor_runs")) == 1


def test_a_row_written_back_as_it_was_read_suppresses_no_notification(
    rows: Rows, notifications: NotificationLog
) -> None:
    """An app that writes back all columns may write an outdated heartbeat_notified_until."""
    rows.start_run(started_at="2026-01-01 12:00:30+00")
    notifications.payloads("reactor_runs")
    counts = []
    for step in (timedelta(seconds=30), timedelta(seconds=-10)):
        rows.run(
            "update public.interpretation_runs"
            "   set heartbeat_at = heartbeat_at + %s, heartbeat_notified_until = '2026-01-01 12:00:40+00'",
            (step,),
        )
        counts.append(len(notifications.payloads("reactor_runs")))
    assert counts == [0, 1]


def test_many_runs_started_by_one_statement_make_a_few_notifications(
    rows: Rows, notifications: NotificationLog
) -> None:
    rows.lift_quotas()
    user = uuid4()
    started = rows.all(
        "insert into public.interpretation_runs (user_id, source_id, status, timeout_at)"
        " select %s, %s, 'running', 'infinity' from generate_series(1, 1000) returning id",
        (user, rows.source(user)),
    )
    texts = notifications.payloads("reactor_runs")
    assert len(texts) <= 11
    assert max(len(text.encode()) for text in texts) < MAX_BYTES
    hinted = [hint.row_id for text in texts for hint in decode(text).hints]
    assert sorted(hinted) == sorted(row.id for row in started)


@pytest.mark.parametrize("heartbeat_at", EXTREMES)
def test_no_deadline_fails_the_apps_write_or_makes_a_hint_unreadable(
    rows: Rows, notifications: NotificationLog, heartbeat_at: str | None
) -> None:
    source = rows.source(user := uuid4())
    moved = rows.start_run(user, source=source)
    for timeout_at in EXTREMES:
        for patience in (None, "1 second", "178000000 years"):
            deadline = {"timeout_at": timeout_at, "heartbeat_at": heartbeat_at, "heartbeat_timeout": patience}
            made = rows.start_run(user, source=source, **deadline)
            rows.run(
                "update public.interpretation_runs set timeout_at = %s, heartbeat_at = %s, heartbeat_timeout = %s"
                " where id = %s",
                (*deadline.values(), moved),
            )
            assert made in {hint.row_id for payload in notifications.runs() for hint in payload.hints}


# the server's notification queue


@pytest.fixture
def small_queue_url(server_url: str, reachable_folder: Path) -> Iterator[str]:
    """URL of a migrated server whose notification queue holds half a megabyte."""
    with small_queue(server_url, reachable_folder) as url:
        yield url


def test_a_listener_that_is_stuck_never_fails_the_apps_writes(small_queue_url: str) -> None:
    with stuck_listener(small_queue_url), rows_of(small_queue_url) as rows:
        for _ in range(300):
            rows.uploads(100)

        assert rows.one("select count(*) as queued from public.upload_queue").queued == 30_000
        assert 0.5 <= rows.one("select pg_notification_queue_usage() as share").share < 1
        fill(small_queue_url)  # notifying now fails; the triggers must not notify, so that the app's writes succeed
        rows.uploads(1)
        rows.uploads(101)
