"""Reconciliation releases leaked reservations, updates the usage of past months, and adds up rejections."""

from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from support.callers import Api, failed
from support.rows import Rows, rows_of

from reactor.postgres import statements

DAY_S = 86_400.0
LEAKED = DAY_S + 5


def repair(rows: Rows, limit: int = 1000) -> dict[str, int]:
    return {row.kind: row.count for row in rows.all(statements.REPAIR_USAGE, (limit,))}


def forget(rows: Rows, source: UUID, seconds: float = LEAKED) -> UUID:
    """Set pending_since of a source to `seconds` before now. Return the source."""
    rows.run("update public.sources set pending_since = %s where id = %s", (rows.at(-seconds), source))
    return source


# reservations


def test_a_leaked_reservation_is_released_after_a_day(rows: Rows, api: Api) -> None:
    user = uuid4()
    leaked, young = forget(rows, api.reserve(user, 30)), forget(rows, api.reserve(user, 7), DAY_S - 60)
    assert repair(rows) == {"reservations": 1}
    assert rows.source_row(leaked).storage_status == "failed"
    assert rows.source_row(young).storage_status == "pending"
    assert rows.usage(user) == (0, 7, 0)
    assert repair(rows) == {}


def test_the_age_of_a_reservation_starts_at_its_last_renewal(rows: Rows, api: Api) -> None:
    source = forget(rows, api.reserve(user := uuid4(), 30, "one"))
    repair(rows)
    assert api.reserve(user, 30, "one") == source
    assert repair(rows) == {}
    assert rows.usage(user) == (0, 30, 0)


@pytest.mark.parametrize(
    ("status", "is_leaked"), [("failed", False), ("uploading", False), ("dead", True), ("cancelled", True)]
)
def test_the_reservation_of_a_queued_upload_is_not_leaked(rows: Rows, api: Api, status: str, is_leaked: bool) -> None:
    source = forget(rows, api.reserve(user := uuid4(), 30))
    api.fail(source)
    rows.run("update public.upload_queue set status = %s", (status,))
    assert repair(rows) == ({"reservations": 1} if is_leaked else {})
    assert rows.usage(user) == (0, 0 if is_leaked else 30, 0)


def test_the_reservation_of_an_upload_that_is_being_queued_is_not_released(
    rows: Rows, api: Api, migrated_url: str
) -> None:
    source = forget(rows, api.reserve(user := uuid4(), 30))
    with rows_of(migrated_url) as app, app.conn.transaction():
        Api(app).call("fail_upload", **failed(source))
        assert repair(rows) == {}
    assert repair(rows) == {}
    assert rows.usage(user) == (0, 30, 0)


def test_the_reservation_of_an_upload_that_was_queued_before_the_lock_is_not_released(
    rows: Rows, api: Api, migrated_url: str
) -> None:
    """The repair is paused between finding and locking the source, and the app queues the upload during the pause."""
    source = forget(rows, api.reserve(user := uuid4(), 30))
    definition = rows.one("select pg_get_functiondef('reactor.leaked_reservation()'::regprocedure) as text").text
    pause = "where (select pg_advisory_xact_lock(1)::text) is not null and "
    rows.conn.execute(definition.replace("where s.storage_status", pause + "s.storage_status").encode())
    with rows_of(migrated_url) as app, rows_of(migrated_url) as worker, ThreadPoolExecutor(1) as pool:
        with rows.conn.transaction():
            rows.all("select pg_advisory_xact_lock(1)")
            repaired = pool.submit(repair, worker)
            app.wait_for_lock(worker.conn)
            Api(app).fail(source)
        assert repaired.result() == {}
    assert rows.usage(user) == (0, 30, 0)


def test_a_failure_reported_while_its_reservation_is_released_reserves_again(
    rows: Rows, api: Api, migrated_url: str
) -> None:
    source = forget(rows, api.reserve(user := uuid4(), 30))
    with rows_of(migrated_url) as app, ThreadPoolExecutor(1) as pool:
        with rows.conn.transaction():
            assert repair(rows) == {"reservations": 1}
            upload = pool.submit(Api(app).fail, source)
            with rows_of(migrated_url) as watching:
                watching.wait_for_lock(app.conn)
        assert rows.upload_row(upload.result()).status == "failed"
    assert rows.source_row(source).storage_status == "pending"
    assert rows.usage(user) == (0, 30, 0)


def test_the_second_of_two_concurrent_repairs_waits(rows: Rows, api: Api, migrated_url: str) -> None:
    forget(rows, api.reserve(user := uuid4()))
    with rows_of(migrated_url) as other:
        other.run("set lock_timeout = '100ms'")
        with rows.conn.transaction():
            assert repair(rows) == {"reservations": 1}
            with pytest.raises(psycopg.errors.LockNotAvailable):
                repair(other)
        assert repair(other) == {}
    assert rows.usage(user) == (0, 0, 0)


def test_many_leaked_reservations_are_released_in_parts_the_oldest_first(rows: Rows, api: Api) -> None:
    user = uuid4()
    sources = [forget(rows, api.reserve(user, 1), LEAKED + number) for number in range(5)]
    for left in (3, 1, 0):
        assert repair(rows, 2)["reservations"] in {1, 2}
        assert rows.usage(user) == (0, left, 0)
        assert [rows.source_row(source).storage_status for source in sources] == ["pending"] * left + ["failed"] * (
            5 - left
        )


# months


def test_a_month_that_is_over_is_updated_and_its_deleted_runs_are_removed(rows: Rows, api: Api) -> None:
    users = [uuid4(), uuid4()]
    for user in users:
        api.begin(api.store(user))
    rows.run("delete from public.interpretation_runs where user_id = %s", (users[0],))
    with rows.conn.transaction():
        rows.run("set local session_replication_role = replica")
        rows.run("update public.storage_usage set billing_month = '2020-01' where user_id = %s", (users[0],))
        rows.run("update reactor.deleted_interpretation set billing_month = '2020-01'")
    assert repair(rows) == {"months": 1}
    turned = rows.all("select user_id, interpretation_count_month as count from public.storage_usage")
    assert {row.user_id: row.count for row in turned} == {users[0]: 0, users[1]: 1}
    assert rows.one("select count(distinct billing_month) as months from public.storage_usage").months == 1
    assert rows.all("select from reactor.deleted_interpretation") == []
    assert repair(rows) == {}


# rejections


def rejections(rows: Rows) -> list[tuple[str, str, int, int]]:
    """Return (quota, plan, total, total of the last hour) for each row that `reactor status` shows."""
    status = rows.one("select reactor.status('1 minute') as status").status
    return [(row["quota"], row["plan"], row["count"], row["last_hour"]) for row in status["quota_rejections"]]


def reject(rows: Rows, ago: LiteralString, count: int, *, backend: int, plan: str = "free") -> None:
    rows.run(
        "insert into reactor.quota_rejection values"
        " (date_trunc('minute', now() - interval '" + ago + "'), 'storage', %s, %s, %s)",
        (plan, backend, count),
    )


def test_rejections_are_added_up_and_their_totals_stay_the_same(rows: Rows) -> None:
    """Each server process has its own rows. A repair merges the rows of a minute, and all rows older than a week."""
    for backend in (1, 2, 3):
        reject(rows, "10 seconds", 1, backend=backend)
        reject(rows, "20 minutes", 10, backend=backend)
        reject(rows, "2 days", 100, backend=backend)
        reject(rows, "8 days", 1000, backend=backend)
        reject(rows, "9 days", 10_000, backend=backend)
    reject(rows, "2 days", 5, backend=7, plan="pro")
    before = rejections(rows)
    assert before == [("storage", "free", 33_333, 33), ("storage", "pro", 5, 0)]
    for kept in (7, 7):  # 3 too new to merge, 3 merged by minute, 1 for everything older than a week
        repair(rows)
        assert rejections(rows) == before
        assert len(rows.all("select from reactor.quota_rejection")) == kept
    rows.run("update reactor.quota_rejection set minute = minute - interval '8 days'")
    repair(rows)
    assert len(rows.all("select from reactor.quota_rejection")) == 2
    assert [row[:3] for row in rejections(rows)] == [row[:3] for row in before]


def test_a_refusal_in_an_open_transaction_blocks_no_repair(rows: Rows, migrated_url: str) -> None:
    """The repair skips a rejection that an open transaction has locked, and adds it up after the transaction ends."""
    reject(rows, "20 minutes", 1, backend=1)
    reject(rows, "20 minutes", 1, backend=2)
    with rows_of(migrated_url) as app, app.conn.transaction():
        app.run("update reactor.quota_rejection set count = 2 where backend = 1")
        rows.run("set lock_timeout = '1s'")
        repair(rows)
        assert {row.backend for row in rows.all("select backend from reactor.quota_rejection")} == {0, 1}
    repair(rows)
    assert [tuple(row) for row in rows.all("select backend, count from reactor.quota_rejection")] == [(0, 3)]


def test_rejections_during_a_repair_are_all_counted(rows: Rows, api: Api, migrated_url: str) -> None:
    api.limit(user := uuid4(), bytes_=0)
    rejected = 0

    def reject_many() -> int:
        with rows_of(migrated_url) as own:
            for _ in range(100):
                Api(own).refused(
                    "STORAGE_QUOTA_EXCEEDED", "reserve_upload", p_user_id=user, p_content_hash="0" * 64, p_byte_size=1
                )
        return 100

    with ThreadPoolExecutor(5) as pool:
        rejecting = [pool.submit(reject_many) for _ in range(4)]
        while not all(one.done() for one in rejecting):
            rows.run("update reactor.quota_rejection set minute = minute - interval '10 minutes' where backend <> 0")
            repair(rows)
        rejected = sum(one.result() for one in rejecting)
    repair(rows)
    assert [row[:3] for row in rejections(rows)] == [("storage", "free", rejected)]
