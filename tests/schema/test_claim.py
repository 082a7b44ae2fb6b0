"""A row is claimed only if it is due and not leased, and at most max_retries times. A claim that is sent again with the
same token returns the same rows and counts no further attempt."""

import math
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from support.rows import TRACEPARENT, Rows, rows_of

from reactor.postgres import statements

CLAIMERS = 8


def test_a_due_upload_is_claimed_with_all_that_an_attempt_needs(rows: Rows) -> None:
    user, token = uuid4(), uuid4()
    source = rows.source(user, mime_type="text/plain")
    upload = rows.upload(
        user,
        source=source,
        content_hash="abc",
        spool="second",
        temp_file_path="a/file",
        max_retries=7,
        error_code="STORAGE_UNAVAILABLE",
        size=123,
    )
    before = rows.upload_row(upload)

    claimed = rows.claim([upload], token)[upload]

    after = rows.upload_row(upload)
    assert claimed.state == "claimed"
    assert (claimed.attempt, claimed.max_retries, claimed.byte_size) == (1, 7, 123)
    assert (claimed.bucket, claimed.object_path, claimed.content_hash) == ("bucket", "user/file", "abc")
    assert (claimed.spool, claimed.temp_file_path, claimed.mime_type) == ("second", "a/file", "text/plain")
    assert (claimed.traceparent, claimed.last_code) == (TRACEPARENT, "STORAGE_UNAVAILABLE")
    assert claimed.due_at == pytest.approx(before.next_retry_at.timestamp())
    assert claimed.created_at == pytest.approx(before.created_at.timestamp())
    assert claimed.claimed_at == pytest.approx(after.updated_at.timestamp())
    assert (after.status, after.lease_token, after.retry_count) == ("uploading", token, 1)
    assert (after.lease_expires_at - after.updated_at).total_seconds() == pytest.approx(30, abs=0.1)


def test_an_upload_is_never_claimed_before_it_is_due(rows: Rows) -> None:
    upload = rows.upload(next_retry_at=rows.at(60))
    before = rows.upload_row(upload)
    answer = rows.claim([upload])[upload]
    assert answer.state == "waiting"
    assert answer.due_at == pytest.approx(before.next_retry_at.timestamp())
    assert rows.upload_row(upload) == before


@pytest.mark.parametrize("status", ["dead", "cancelled"])
def test_an_upload_that_has_ended_is_not_returned(rows: Rows, status: str) -> None:
    assert rows.claim([rows.upload(status=status)]) == {}


def test_unknown_ids_are_not_returned(rows: Rows) -> None:
    upload = rows.upload()
    assert rows.claim([]) == {}
    assert set(rows.claim([uuid4(), upload, uuid4()])) == {upload}


def test_an_id_that_is_passed_twice_is_claimed_once(rows: Rows) -> None:
    upload = rows.upload()
    assert rows.claim([upload, upload])[upload].attempt == 1
    assert rows.upload_row(upload).retry_count == 1


def test_eight_concurrent_claimers_claim_each_of_400_rows_once(rows: Rows, migrated_url: str) -> None:
    uploads = rows.uploads(400)
    start = Barrier(CLAIMERS)

    def claim_all(seed: int) -> list[UUID]:
        mine = []
        order = random.Random(seed)  # seeded, so that a failure can be repeated
        with rows_of(migrated_url) as own:
            start.wait()
            for _ in range(30):
                answers = own.claim(order.sample(uploads, 60))
                mine += [upload for upload, row in answers.items() if row.state == "claimed"]
            mine += [upload for upload, row in own.claim(uploads).items() if row.state == "claimed"]
        return mine

    with ThreadPoolExecutor(CLAIMERS) as pool:
        taken = [upload for mine in pool.map(claim_all, range(CLAIMERS)) for upload in mine]

    assert len(taken) == 400
    assert set(taken) == set(uploads)
    assert rows.one("select min(retry_count) as least, max(retry_count) as most from public.upload_queue") == (1, 1)


def test_no_upload_is_attempted_more_often_than_max_retries_by_any_number_of_claimers(
    rows: Rows, migrated_url: str
) -> None:
    """Each lease ends in the past, so that any claimer can take over any upload at once."""
    uploads = rows.uploads(20)
    rows.run("update public.upload_queue set max_retries = 3")
    start = Barrier(CLAIMERS)

    def claim_until_exhausted(_: int) -> list[tuple[UUID, int]]:
        attempts = []
        with rows_of(migrated_url) as own:
            start.wait()
            while True:
                answers = own.claim(uploads, lease_s=-1)
                attempts += [(row.id, row.attempt) for row in answers.values() if row.state == "claimed"]
                if all(row.state == "exhausted" for row in answers.values()):
                    return attempts

    with ThreadPoolExecutor(CLAIMERS) as pool:
        begun = Counter(a for attempts in pool.map(claim_until_exhausted, range(CLAIMERS)) for a in attempts)

    assert begun == Counter((upload, attempt) for upload in uploads for attempt in (1, 2, 3))


def test_the_same_token_claims_the_same_rows_again_and_counts_no_further_attempt(rows: Rows) -> None:
    uploads, token = [rows.upload(), rows.upload()], uuid4()
    first = rows.claim(uploads, token)
    again = rows.claim(uploads, token)
    assert set(first) == set(again)
    assert [row.attempt for row in again.values()] == [1, 1]
    assert all(row.state == "claimed" for row in again.values())
    assert {rows.upload_row(upload).retry_count for upload in uploads} == {1}


def test_the_last_attempt_can_be_claimed_again_with_the_same_token(rows: Rows) -> None:
    upload, token = rows.upload(max_retries=1), uuid4()
    rows.claim([upload], token)
    assert rows.claim([upload], token)[upload].state == "claimed"


def test_while_a_lease_holds_other_claimers_get_its_end(rows: Rows) -> None:
    upload, token = rows.upload(), uuid4()
    rows.claim([upload], token)
    held = rows.upload_row(upload)
    answer = rows.claim([upload])[upload]
    assert answer.state == "waiting"
    assert answer.due_at == pytest.approx(held.lease_expires_at.timestamp())
    assert rows.upload_row(upload) == held


def test_an_expired_lease_is_taken_over_and_its_holder_has_lost_it(rows: Rows) -> None:
    upload, first, second = rows.upload(), uuid4(), uuid4()
    rows.claim([upload], first, lease_s=-1)
    taken = rows.claim([upload], second)[upload]
    assert (taken.state, taken.attempt) == ("claimed", 2)
    assert rows.extend([upload], [first]) == set()
    assert rows.extend([upload], [second]) == {upload}


def test_a_claim_that_takes_over_an_expired_lease_records_the_lost_attempt_as_a_rescue_does(rows: Rows) -> None:
    upload, rescued, token = rows.upload(), rows.upload(), uuid4()
    first = rows.claim([upload, rescued], lease_s=-1)
    assert rows.rescue([rescued]) == {rescued: "retry"}

    for _ in range(2):  # the second claim repeats the first and adds no entry
        assert rows.claim([upload], token)[upload].attempt == 2

    (entry,) = rows.upload_row(upload).errors
    (expected,) = rows.upload_row(rescued).errors
    same = ("attempt", "code", "message", "trace_id")
    assert [entry[key] for key in same] == [expected[key] for key in same]
    assert entry.keys() == expected.keys()
    assert entry["code"] == "STORAGE_UNAVAILABLE"
    assert datetime.fromisoformat(entry["began"]).timestamp() == pytest.approx(first[upload].claimed_at, abs=1e-5)


def test_a_claim_of_a_waiting_upload_records_no_error(rows: Rows) -> None:
    upload = rows.upload()
    rows.claim([upload])
    assert rows.upload_row(upload).errors == []


def test_an_upload_under_no_lease_at_all_is_taken_over(rows: Rows) -> None:
    upload = rows.upload(status="uploading")
    assert rows.claim([upload])[upload].state == "claimed"


def test_exhausted_uploads_are_returned_and_do_not_prevent_other_claims(rows: Rows) -> None:
    waiting = rows.upload(retry_count=5, max_retries=5)
    leased = rows.upload(status="uploading", retry_count=5, lease_token=uuid4(), lease_expires_at=rows.at(-1))
    never = rows.upload(max_retries=0)
    not_yet = rows.upload(retry_count=5, next_retry_at=rows.at(60))
    last_try = rows.upload(status="uploading", retry_count=5, lease_token=uuid4(), lease_expires_at=rows.at(60))
    fine = rows.upload()
    claimed = rows.claim([waiting, leased, never, not_yet, last_try, fine])
    states = {upload: row.state for upload, row in claimed.items()}
    assert states == {
        waiting: "exhausted",
        leased: "exhausted",
        never: "exhausted",
        not_yet: "waiting",
        last_try: "waiting",
        fine: "claimed",
    }


def test_uploads_in_held_buckets_and_spools_are_not_claimed(rows: Rows) -> None:
    bucket, spool, fine = rows.upload(bucket="gone"), rows.upload(spool="unmounted"), rows.upload()
    not_yet = rows.upload(bucket="gone", next_retry_at=rows.at(60))
    exhausted = rows.upload(bucket="gone", retry_count=5, max_retries=5)
    token = uuid4()
    repeated = rows.upload(bucket="gone", status="uploading", lease_token=token, lease_expires_at=rows.at(60))
    ids = [bucket, spool, fine, not_yet, exhausted, repeated]
    answers = rows.all(statements.CLAIM_UPLOADS_EXCEPT, (ids, token, "1 minute", ["gone"], ["unmounted"]))
    states = {row.id: row.state for row in answers}
    assert states == {
        bucket: "held",
        spool: "held",
        fine: "claimed",
        not_yet: "waiting",
        exhausted: "exhausted",
        repeated: "claimed",
    }
    assert {(row.bucket, row.spool) for row in answers if row.state == "held"} == {
        ("gone", "default"),
        ("bucket", "unmounted"),
    }
    assert rows.upload_row(bucket).retry_count == rows.upload_row(spool).retry_count == 0


def test_a_locked_row_is_skipped_and_returned_as_locked(rows: Rows, migrated_url: str) -> None:
    locked, free = rows.upload(), rows.upload()
    with rows_of(migrated_url) as other, other.conn.transaction():
        other.one("select id from public.upload_queue where id = %s for update", (locked,))
        answers = rows.claim([locked, free], lease_s=20)
    assert {upload: answers[upload].state for upload in answers} == {locked: "locked", free: "claimed"}
    assert rows.upload_row(locked).retry_count == 0
    assert rows.claim([locked])[locked].state == "claimed"


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
def test_for_an_infinite_due_time_a_finite_one_is_returned(rows: Rows, moment: str) -> None:
    """The reactor converts due times to ticks; infinity can't be converted."""
    upload = rows.upload(next_retry_at=moment)
    swept = rows.all(statements.SWEEP_UPLOADS, (timedelta(minutes=15), 10, 10))
    assert [row.id for row in swept] == ([upload] if moment == "-infinity" else [])
    answer = rows.claim([upload])[upload]
    assert answer.state == ("claimed" if moment == "-infinity" else "waiting")
    assert all(math.isfinite(row.due_at) for row in [answer, *swept])


# leases


def test_a_lease_is_extended_from_now_and_only_for_its_holder(rows: Rows) -> None:
    mine, other, token = rows.upload(), rows.upload(), uuid4()
    rows.claim([mine], token, lease_s=1)
    rows.claim([other], uuid4(), lease_s=1)
    theirs = rows.upload_row(other)
    assert rows.extend([mine, other, uuid4()], [token] * 3, lease_s=500) == {mine}
    left = rows.upload_row(mine).lease_expires_at - rows.at(0)
    assert left.total_seconds() == pytest.approx(500, abs=5)
    assert rows.upload_row(other) == theirs


def test_the_lease_of_a_cancelled_upload_cannot_be_extended(rows: Rows) -> None:
    upload, token = rows.upload(), uuid4()
    rows.claim([upload], token)
    rows.all("select reactor.cancel_uploads(%s)", ([upload],))
    assert rows.extend([upload], [token]) == set()


# the sweep


def test_a_sweep_lists_the_earliest_uploads_of_every_user(rows: Rows) -> None:
    flood, modest = uuid4(), uuid4()
    rows.uploads(50, flood)
    early = rows.upload(flood, next_retry_at=rows.at(-3600))
    single = rows.upload(modest, next_retry_at=rows.at(600))
    rows.upload(modest, next_retry_at=rows.at(3600))
    rows.upload(modest, status="dead")
    held = rows.upload(modest, status="uploading", lease_token=uuid4(), lease_expires_at=rows.at(9))
    swept = {row.id: row for row in rows.all(statements.SWEEP_UPLOADS, (timedelta(minutes=15), 3, 1000))}
    assert {early, single, held} <= set(swept)
    assert len(swept) == 5
    assert swept[single].due_at == pytest.approx(rows.upload_row(single).next_retry_at.timestamp())
    assert swept[held].due_at == pytest.approx(rows.upload_row(held).lease_expires_at.timestamp())
    assert swept[single].tenant == rows.one("select uuid_hash(%s) as tenant", (modest,)).tenant
