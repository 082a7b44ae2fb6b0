"""Operators requeue, cancel, purge and fail rows; each function returns exactly the rows that it changed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from support.rows import Rows, rows_of


def requeue(rows: Rows, *ids: UUID) -> set[UUID]:
    return {row.id for row in rows.all("select * from reactor.requeue_uploads(%s)", (list(ids),))}


def cancel(rows: Rows, *ids: UUID) -> set[UUID]:
    return {row.id for row in rows.all("select * from reactor.cancel_uploads(%s) as id", (list(ids),))}


def purge(rows: Rows, *ids: UUID) -> dict[UUID, tuple[str, str]]:
    purged = rows.all("select * from reactor.purge_uploads(%s)", (list(ids),))
    return {row.id: (row.spool, row.temp_file_path) for row in purged}


def dead(rows: Rows) -> UUID:
    """Queue an upload and make it dead, which releases its reservation."""
    upload, token = rows.upload(temp_file_path="a/file"), uuid4()
    rows.claim([upload], token)
    rows.settle([(upload, token, "dead")])
    return upload


def test_a_dead_upload_that_is_requeued_has_all_its_attempts_and_its_reservation_again(rows: Rows) -> None:
    upload = dead(rows)
    assert requeue(rows, upload, uuid4()) == {upload}
    row = rows.upload_row(upload)
    assert (row.status, row.retry_count) == ("failed", 0)
    assert rows.source_row(row.source_id).storage_status == "pending"
    assert rows.usage(row.user_id) == (0, 10, 0)
    assert rows.claim([upload])[upload].attempt == 1


def test_a_waiting_upload_that_is_requeued_is_due_now_and_keeps_its_count(rows: Rows) -> None:
    upload = rows.upload(next_retry_at=rows.at(600), retry_count=2)
    assert requeue(rows, upload) == {upload}
    assert rows.claim([upload])[upload].attempt == 3


def test_a_claimed_upload_is_not_requeued(rows: Rows) -> None:
    upload = rows.upload()
    rows.claim([upload])
    before = rows.upload_row(upload)
    assert requeue(rows, upload) == set()
    assert rows.upload_row(upload) == before


def test_a_cancelled_upload_releases_its_reservation_once(rows: Rows) -> None:
    waiting, held, given_up = rows.upload(), rows.upload(), dead(rows)
    rows.claim([held])
    assert cancel(rows, waiting, held, given_up) == {waiting, held, given_up}
    assert cancel(rows, waiting, held, given_up) == set()
    for upload in (waiting, held, given_up):
        row = rows.upload_row(upload)
        assert (row.status, row.lease_token) == ("cancelled", None)
        assert rows.usage(row.user_id) == (0, 0, 0)


def test_only_uploads_that_have_ended_are_purged_and_their_spooled_files_returned(rows: Rows) -> None:
    waiting, given_up = rows.upload(), dead(rows)
    assert purge(rows, waiting, given_up) == {given_up: ("default", "a/file")}
    assert rows.upload_row(waiting).status == "failed"
    assert purge(rows, given_up) == {}


def test_an_operator_fails_only_runs_that_have_not_ended(rows: Rows) -> None:
    running, pending = rows.start_run(), rows.start_run(status="pending")
    ended = rows.start_run(status="completed")
    answered = rows.all("select * from reactor.fail_runs(%s, 'by hand') as id", ([running, pending, ended],))
    assert {row.id for row in answered} == {running, pending}
    row = rows.run_row(running)
    assert (row.status, row.error_code, row.error_message) == ("failed", "INTERPRETATION_FAILED", "by hand")
    assert row.completed_at is not None
    assert rows.run_row(ended).status == "completed"


@pytest.mark.parametrize("verb", [requeue, cancel])
def test_an_app_that_deletes_a_source_meanwhile_waits_and_both_succeed(
    rows: Rows, migrated_url: str, verb: Callable[..., set[UUID]]
) -> None:
    upload = dead(rows) if verb is requeue else rows.upload()
    source = rows.upload_row(upload).source_id
    with rows_of(migrated_url) as app, rows_of(migrated_url) as operator, ThreadPoolExecutor(2) as pool:
        with rows.conn.transaction():
            rows.one("select id from public.upload_queue where id = %s for update", (upload,))
            done = pool.submit(verb, operator, upload)
            rows.wait_for_lock(operator.conn)
            deleted = pool.submit(app.run, "delete from public.sources where id = %s", (source,))
            rows.wait_for_lock(app.conn)
        assert done.result() == {upload}
        assert deleted.result() == 1
