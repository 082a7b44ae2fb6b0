"""A settlement changes queue row, source and usage together, once, and only for the holder of the lease."""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError
from uuid import uuid4

import psycopg
import pytest
from support.rows import TRACEPARENT, Rows, rows_of

VERDICTS = ["stored", "retry", "dead", "deferred"]
SETTLERS = 4
ROUNDS = 60


class Attempt:
    """A claimed upload of 100 bytes. Its user has no other upload."""

    def __init__(self, rows: Rows, **columns: object) -> None:
        self.rows = rows
        self.user = uuid4()
        self.source = rows.source(self.user, size=100)
        self.upload = rows.upload(self.user, source=self.source, size=100, **columns)
        self.token = uuid4()
        rows.claim([self.upload], self.token)

    def state(self) -> tuple[list[object], object, tuple[int, int, int]]:
        """Return what a settlement changes: queue row (a list, empty if the row is deleted), source, usage."""
        row = self.rows.all("select * from public.upload_queue where id = %s", (self.upload,))
        return row, self.rows.source_row(self.source), self.rows.usage(self.user)


def test_a_stored_upload_leaves_the_queue_and_its_reservation_becomes_usage(rows: Rows) -> None:
    attempt = Attempt(rows)
    assert rows.usage(attempt.user) == (0, 100, 0)
    settled = rows.settle([(attempt.upload, attempt.token, "stored")], url="s3://bucket/user/file")
    row, source, usage = attempt.state()
    assert settled == {attempt.upload: None}
    assert row == []
    assert (source.storage_status, source.storage_url) == ("uploaded", "s3://bucket/user/file")  # type: ignore[attr-defined]
    assert usage == (100, 0, 1)


def test_a_settlement_whose_answer_was_lost_is_confirmed_once_it_has_committed(rows: Rows) -> None:
    attempt = Attempt(rows)
    asked = (attempt.upload, attempt.source, "s3://bucket/user/file")
    assert rows.confirm([asked]) == set()
    rows.settle([(attempt.upload, attempt.token, "stored")], url="s3://bucket/user/file")
    assert rows.confirm([asked]) == {attempt.upload}


def test_only_the_settlement_itself_is_confirmed(rows: Rows) -> None:
    """No settlement is confirmed if the source has another URL, was deleted or was queued again.

    In these cases, the spooled file may still be needed.
    """
    [elsewhere, queued, gone] = attempts = [Attempt(rows) for _ in range(3)]
    urls = ["s3://another", "s3://mine", "s3://mine"]
    for attempt, url in zip(attempts, urls, strict=True):
        rows.settle([(attempt.upload, attempt.token, "stored")], url=url)
    again = rows.upload(queued.user, source=queued.source, size=100)
    rows.run("delete from public.sources where id = %s", (gone.source,))
    asked = [(a.upload, a.source, "s3://mine") for a in (elsewhere, gone)] + [(again, queued.source, "s3://mine")]
    assert rows.confirm(asked) == set()


def test_a_retry_waits_for_its_delay_and_keeps_its_reservation(rows: Rows) -> None:
    attempt = Attempt(rows)
    settled = rows.settle(
        [(attempt.upload, attempt.token, "retry")], delay_s=30, code="STORAGE_UNAVAILABLE", message="503"
    )
    row = rows.upload_row(attempt.upload)
    assert (row.status, row.retry_count, row.lease_token, row.lease_expires_at) == ("failed", 1, None, None)
    assert (row.error_code, row.error_message) == ("STORAGE_UNAVAILABLE", "503")
    assert (row.next_retry_at - row.updated_at).total_seconds() == pytest.approx(30, abs=0.1)
    assert settled == {attempt.upload: pytest.approx(row.next_retry_at.timestamp())}
    assert rows.source_row(attempt.source).storage_status == "pending"
    assert rows.usage(attempt.user) == (0, 100, 0)


def test_a_dead_upload_stays_with_its_errors_and_releases_its_reservation(rows: Rows) -> None:
    attempt = Attempt(rows)
    settled = rows.settle([(attempt.upload, attempt.token, "dead")], code="CONTENT_MISMATCH", message="other bytes")
    row = rows.upload_row(attempt.upload)
    assert settled == {attempt.upload: None}
    assert (row.status, row.lease_token, row.error_code) == ("dead", None, "CONTENT_MISMATCH")
    assert [entry["code"] for entry in row.errors] == ["CONTENT_MISMATCH"]
    assert rows.source_row(attempt.source).storage_status == "failed"
    assert rows.usage(attempt.user) == (0, 0, 0)


def test_a_deferred_attempt_is_not_counted(rows: Rows) -> None:
    attempt = Attempt(rows, error_code="STORAGE_UNAVAILABLE", error_message="503")
    settled = rows.settle([(attempt.upload, attempt.token, "deferred")], delay_s=7)
    row = rows.upload_row(attempt.upload)
    assert (row.status, row.retry_count, row.errors) == ("failed", 0, [])
    assert (row.error_code, row.error_message) == ("STORAGE_UNAVAILABLE", "503")
    assert settled == {attempt.upload: pytest.approx(row.next_retry_at.timestamp())}
    assert rows.usage(attempt.user) == (0, 100, 0)


def test_every_failed_attempt_adds_one_entry_to_errors(rows: Rows) -> None:
    upload = rows.upload()
    for number in (1, 2, 3):
        token = uuid4()
        rows.claim([upload], token)
        verdict = "dead" if number == 3 else "retry"
        rows.settle([(upload, token, verdict)], delay_s=-1, code=f"CODE_{number}", message=f"words {number}")
    row = rows.upload_row(upload)
    assert [(entry["attempt"], entry["code"], entry["message"]) for entry in row.errors] == [
        (number, f"CODE_{number}", f"words {number}") for number in (1, 2, 3)
    ]
    assert {entry["trace_id"] for entry in row.errors} == {TRACEPARENT.split("-")[1]}
    times = [entry["at"] for entry in row.errors]
    assert times == sorted(times)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_no_session_reads_half_a_settlement_and_a_rollback_leaves_none(
    rows: Rows, migrated_url: str, verdict: str
) -> None:
    attempt = Attempt(rows)
    before = attempt.state()
    with rows_of(migrated_url) as own, own.conn.transaction():
        own.settle([(attempt.upload, attempt.token, verdict)])
        assert attempt.state() == before
        raise psycopg.Rollback
    assert attempt.state() == before


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_settlement_that_is_sent_twice_is_applied_once(rows: Rows, verdict: str) -> None:
    attempt = Attempt(rows)
    settlement = [(attempt.upload, attempt.token, verdict)]
    assert attempt.upload in rows.settle(settlement)
    once = attempt.state()
    assert rows.settle(settlement) == {}
    assert attempt.state() == once


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_worker_whose_lease_was_taken_changes_nothing(rows: Rows, verdict: str) -> None:
    attempt = Attempt(rows)
    rows.run("update public.upload_queue set lease_expires_at = now() - interval '1 second'")
    thief = uuid4()
    assert rows.claim([attempt.upload], thief)[attempt.upload].state == "claimed"
    before = attempt.state()
    assert rows.settle([(attempt.upload, attempt.token, verdict)]) == {}
    assert attempt.state() == before
    assert rows.settle([(attempt.upload, thief, "stored")]) == {attempt.upload: None}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_cancelled_upload_stays_cancelled_whatever_its_worker_settles(rows: Rows, verdict: str) -> None:
    attempt = Attempt(rows)
    rows.all("select reactor.cancel_uploads(%s)", ([attempt.upload],))
    before = attempt.state()
    assert rows.settle([(attempt.upload, attempt.token, verdict)]) == {}
    assert attempt.state() == before


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_upload_whose_source_was_deleted_is_not_settled(rows: Rows, verdict: str) -> None:
    attempt = Attempt(rows)
    rows.run("delete from public.sources where id = %s", (attempt.source,))
    assert rows.settle([(attempt.upload, attempt.token, verdict)]) == {}
    assert rows.usage(attempt.user) == (0, 0, 0)


def test_one_batch_settles_each_upload_with_its_verdict_and_leaves_out_lost_ones(rows: Rows) -> None:
    stored, retried, dead, deferred, lost, gone = (Attempt(rows) for _ in range(6))
    rows.run("delete from public.sources where id = %s", (gone.source,))
    settled = rows.settle(
        [
            (stored.upload, stored.token, "stored"),
            (lost.upload, uuid4(), "stored"),
            (retried.upload, retried.token, "retry"),
            (gone.upload, gone.token, "dead"),
            (dead.upload, dead.token, "dead"),
            (deferred.upload, deferred.token, "deferred"),
        ]
    )
    assert set(settled) == {stored.upload, retried.upload, dead.upload, deferred.upload}
    assert rows.upload_row(lost.upload).lease_token == lost.token
    statuses = [rows.source_row(a.source).storage_status for a in (stored, retried, dead, deferred, lost)]
    assert statuses == ["uploaded", "pending", "failed", "pending", "pending"]


def test_a_source_is_uploaded_if_one_of_its_two_uploads_is_stored_and_the_other_is_dead(rows: Rows) -> None:
    """One statement settles both uploads. Their ids are random, so PostgreSQL reads them in a random order."""
    for _ in range(8):
        source, token = rows.source(uuid4()), uuid4()
        uploads = [rows.upload(source=source), rows.upload(source=source)]
        rows.claim(uploads, token)
        rows.settle([(uploads[0], token, "dead"), (uploads[1], token, "stored")], url="file:///there")
        row = rows.source_row(source)
        assert (row.storage_status, row.storage_url) == ("uploaded", "file:///there")


def test_a_dead_upload_does_not_change_a_source_that_the_app_has_stored(rows: Rows) -> None:
    attempt = Attempt(rows)
    rows.run("update public.sources set storage_status = 'uploaded' where id = %s", (attempt.source,))
    rows.settle([(attempt.upload, attempt.token, "dead")])
    assert rows.source_row(attempt.source).storage_status == "uploaded"
    assert rows.usage(attempt.user) == (100, 0, 1)


def test_settlers_whose_batches_share_users_and_sources_never_deadlock(rows: Rows, migrated_url: str) -> None:
    """In each round, every settler claims an upload of each source. Then all settle at once, each in a random order."""
    users = [uuid4() for _ in range(6)]
    for user in users:
        for _ in range(2):
            rows.source(user)
    together = Barrier(SETTLERS, timeout=30)

    def settle_one_round(own: Rows, order: random.Random) -> None:
        made = own.all(
            "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size)"
            " select s.id, s.user_id, 'bucket', 'path', 10 from public.sources as s returning id"
        )
        token = uuid4()
        batch = [(upload, token, order.choice(["stored", "dead"])) for upload in own.claim([m.id for m in made], token)]
        order.shuffle(batch)
        together.wait()
        while batch:  # rows that another settler has locked are busy
            answers = own.settlement(batch)
            assert len(answers) == len(batch)
            batch = [each for each in batch if answers[each[0]].state == "busy"]
        if together.wait() == 0:
            own.run("update public.sources set storage_status = 'pending'")
        together.wait()

    def settle_all(number: int) -> None:
        order = random.Random(number)  # seeded, so that a failure can be repeated
        try:
            with rows_of(migrated_url) as own:
                for _ in range(ROUNDS):
                    settle_one_round(own, order)
        except BaseException:
            together.abort()  # the other settlers must not wait for this one
            raise

    with ThreadPoolExecutor(SETTLERS) as pool:
        ends = [pool.submit(settle_all, number).exception for number in range(SETTLERS)]
        errors = [error for end in ends if (error := end()) and not isinstance(error, BrokenBarrierError)]
    assert errors == []
    assert [rows.usage(user) for user in users] == [(0, 20, 0)] * 6


def test_an_app_that_deletes_a_source_makes_its_settlement_busy_and_then_lost(rows: Rows, migrated_url: str) -> None:
    attempt = Attempt(rows)
    with rows_of(migrated_url) as app, app.conn.transaction():
        app.run("delete from public.sources where id = %s", (attempt.source,))
        assert rows.settlement([(attempt.upload, attempt.token, "stored")])[attempt.upload].state == "busy"
    assert rows.settlement([(attempt.upload, attempt.token, "stored")]) == {}
    assert rows.usage(attempt.user) == (0, 0, 0)


def test_an_app_that_deletes_a_source_waits_for_its_settlement(rows: Rows, migrated_url: str) -> None:
    attempt = Attempt(rows)
    with rows_of(migrated_url) as app, ThreadPoolExecutor(1) as pool:
        with rows.conn.transaction():
            assert rows.settle([(attempt.upload, attempt.token, "stored")]) == {attempt.upload: None}
            deleted = pool.submit(app.run, "delete from public.sources where id = %s", (attempt.source,))
            with rows_of(migrated_url) as third:
                third.wait_for_lock(app.conn)
        assert deleted.result() == 1
    assert rows.usage(attempt.user) == (0, 0, 0)
