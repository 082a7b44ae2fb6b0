"""A rescue makes an abandoned upload due again, or dead if it has no attempts left. Each upload is rescued once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.rows import TRACEPARENT, Rows, rows_of

RESCUERS = 6


def abandoned(rows: Rows, **columns: Any) -> UUID:
    """Queue an upload whose lease expired a second ago, as if its worker had died."""
    lease: dict[str, Any] = {"status": "uploading", "lease_token": uuid4(), "lease_expires_at": rows.at(-1)}
    return rows.upload(**{"retry_count": 1} | lease | columns)


def test_an_abandoned_upload_is_due_immediately_and_its_attempt_stays_counted(rows: Rows) -> None:
    upload = abandoned(rows, error_code="STORAGE_UNAVAILABLE")
    assert rows.rescue() == {upload: "retry"}
    row = rows.upload_row(upload)
    assert (row.status, row.retry_count, row.lease_token, row.lease_expires_at) == ("failed", 1, None, None)
    assert row.next_retry_at <= rows.at(0)
    (entry,) = row.errors
    assert (entry["attempt"], entry["code"]) == (1, "STORAGE_UNAVAILABLE")
    assert entry["trace_id"] == TRACEPARENT.split("-")[1]
    assert rows.source_row(row.source_id).storage_status == "pending"
    assert rows.usage(row.user_id) == (0, 10, 0)
    assert rows.claim([upload])[upload].attempt == 2


def test_an_abandoned_upload_without_attempts_left_becomes_dead(rows: Rows) -> None:
    upload = abandoned(rows, retry_count=5)
    assert rows.rescue() == {upload: "dead"}
    row = rows.upload_row(upload)
    assert (row.status, row.lease_token, row.error_code) == ("dead", None, "STORAGE_UPLOAD_FAILED")
    assert "5 attempts" in row.error_message
    assert len(row.errors) == 1
    assert rows.source_row(row.source_id).storage_status == "failed"
    assert rows.usage(row.user_id) == (0, 0, 0)


def test_a_waiting_upload_without_attempts_left_becomes_dead_with_the_reason_of_its_last_failure(rows: Rows) -> None:
    upload = rows.upload(retry_count=5, error_message="the store answered 503")
    assert rows.rescue() == {upload: "dead"}
    row = rows.upload_row(upload)
    assert (row.status, row.errors) == ("dead", [])
    assert "the store answered 503" in row.error_message
    assert rows.usage(row.user_id) == (0, 0, 0)


def test_uploads_that_are_waiting_claimed_or_ended_are_not_rescued(rows: Rows) -> None:
    left = [
        rows.upload(),
        rows.upload(retry_count=5, next_retry_at=rows.at(60)),
        abandoned(rows, lease_expires_at=rows.at(60)),
        abandoned(rows, lease_expires_at=rows.at(60), retry_count=5),
        rows.upload(status="dead", retry_count=5),
        rows.upload(status="cancelled", retry_count=5),
    ]
    before = [rows.upload_row(upload) for upload in left]
    assert rows.rescue() == {}
    assert rows.rescue(left) == {}
    assert [rows.upload_row(upload) for upload in left] == before


def test_an_upload_under_no_lease_at_all_is_rescued(rows: Rows) -> None:
    upload = abandoned(rows, lease_token=None, lease_expires_at=None)
    assert rows.rescue() == {upload: "retry"}


def test_ids_and_limit_restrict_a_rescue(rows: Rows) -> None:
    uploads = [abandoned(rows) for _ in range(4)]
    assert rows.rescue(uploads[:1]) == {uploads[0]: "retry"}
    assert len(rows.rescue(limit=2)) == 2
    assert len(rows.rescue(limit=2)) == 1
    assert rows.rescue() == {}


def test_the_worker_of_a_rescued_upload_can_change_nothing(rows: Rows) -> None:
    token = uuid4()
    upload = abandoned(rows, lease_token=token)
    rows.rescue()
    before = rows.upload_row(upload)
    assert rows.settle([(upload, token, "stored")]) == {}
    assert rows.extend([upload], [token]) == set()
    assert rows.upload_row(upload) == before


@pytest.mark.parametrize("table", ["upload_queue", "sources"])
def test_an_upload_is_skipped_while_its_row_or_its_source_is_locked(rows: Rows, migrated_url: str, table: str) -> None:
    locked, free = abandoned(rows, retry_count=5), abandoned(rows)
    with rows_of(migrated_url) as other, other.conn.transaction():
        if table == "sources":
            other.run("select from public.sources where id = %s for update", (rows.upload_row(locked).source_id,))
        else:
            other.run("select from public.upload_queue where id = %s for update", (locked,))
        assert rows.rescue() == {free: "retry"}
    assert rows.rescue() == {locked: "dead"}


def test_a_source_is_locked_before_its_queue_row(rows: Rows, migrated_url: str) -> None:
    """A rescue that skips an upload because its source is locked must not lock the queue row."""
    upload = abandoned(rows)
    rows.run("update public.upload_queue set max_retries = retry_count")
    source = rows.upload_row(upload).source_id
    with rows_of(migrated_url) as app, rows_of(migrated_url) as third, app.conn.transaction():
        app.run("select from public.sources where id = %s for update", (source,))
        with rows.conn.transaction():
            assert rows.rescue() == {}
            assert third.run("select from public.upload_queue where id = %s for update nowait", (upload,)) == 1


def test_many_concurrent_rescuers_rescue_each_upload_once(rows: Rows, migrated_url: str) -> None:
    uploads = rows.uploads(300)
    rows.run("update public.upload_queue set max_retries = 1")
    rows.claim(uploads[:200], lease_s=-1)
    rows.run("update public.upload_queue set max_retries = 5 where id = any(%s)", (uploads[:100],))
    start = Barrier(RESCUERS)

    def rescue_all(_: int) -> list[tuple[UUID, str]]:
        rescued: list[tuple[UUID, str]] = []
        with rows_of(migrated_url) as own:
            start.wait()
            while some := own.rescue(limit=7):
                rescued += some.items()
        return rescued

    with ThreadPoolExecutor(RESCUERS) as pool:
        rescued = Counter(one for some in pool.map(rescue_all, range(RESCUERS)) for one in some)
    rescued.update(rows.rescue().items())  # uploads that were skipped because another rescuer had locked them

    assert rescued == Counter(
        [(upload, "retry") for upload in uploads[:100]] + [(upload, "dead") for upload in uploads[100:200]]
    )
    assert rows.one(
        "select max(jsonb_array_length(errors)) as entries, count(*) filter (where status = 'dead') as dead"
        " from public.upload_queue"
    ) == (1, 100)
