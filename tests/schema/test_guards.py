"""Rare interleavings and callers. Each test was added because a mutant of the SQL survived the other tests."""

from concurrent.futures import ThreadPoolExecutor
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from support.callers import NIL, Api
from support.rows import Rows, rows_of

from reactor.postgres import statements


@pytest.mark.parametrize(("function", "argument"), [("set_plan", {"p_plan": "pro"}), ("recalculate_usage", {})])
def test_the_claims_of_a_users_token_restrict_every_role_even_the_owner(
    rows: Rows, function: str, argument: dict[str, str]
) -> None:
    """A gateway may connect as a role that may execute every function, and pass the claims of the user's token."""
    user = uuid4()
    rows.all("select set_config('request.jwt.claims', %s, false)", (f'{{"sub": "{user}"}}',))
    Api(rows).refused("NOT_ALLOWED", function, p_user_id=user, **argument)


def test_a_recount_waits_for_a_concurrent_write_and_counts_it(rows: Rows, migrated_url: str) -> None:
    rows.source(user := uuid4(), size=10)
    with rows_of(migrated_url) as app, rows_of(migrated_url) as watching, ThreadPoolExecutor(1) as pool:
        with app.conn.transaction():
            app.source(user, size=5)
            recount = pool.submit(Api(rows).ok, "recalculate_usage", p_user_id=user)
            watching.wait_for_lock(rows.conn)
        assert recount.result()["reserved_bytes"] == 15
    assert rows.usage(user) == (0, 15, 0)


_REJECTED: LiteralString = (
    "insert into reactor.quota_rejection (minute, quota, plan, backend, count)"
    " values (date_trunc('minute', now()) - interval '1 hour', 'storage', 'free', %s, 3)"
)


def test_the_second_of_two_repairs_waits_for_the_first(rows: Rows, migrated_url: str) -> None:
    """A repair that can't run raises, so that the reactor reports it. It adds up no rejection twice."""
    rows.run(_REJECTED, (7,))
    rows.run("insert into reactor.deleted_interpretation values (gen_random_uuid(), '2000-01', 1)")
    with rows_of(migrated_url) as other:
        other.run("set lock_timeout = '100ms'")
        with rows.conn.transaction():
            assert rows.all(statements.REPAIR_USAGE, (10,)) == []
            assert other.all("select from reactor.usage_repair for update skip locked") == []
            other.run(_REJECTED, (8,))
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.all(statements.REPAIR_USAGE, (10,))
        assert rows.all("select backend, count from reactor.quota_rejection order by backend") == [(0, 3), (8, 3)]
        assert other.all(statements.REPAIR_USAGE, (10,)) == []
    assert rows.all("select backend, count from reactor.quota_rejection order by backend") == [(0, 6)]
    assert rows.all("select from reactor.deleted_interpretation") == []


@pytest.mark.parametrize("role", ["reactor_worker", "authenticated", "anon"])
def test_no_other_role_can_take_the_lock_of_repairs(rows: Rows, migrated_url: str, role: str) -> None:
    """Not by an advisory lock of the same name, and not on the row or its table."""
    user = uuid4()
    rows.run(
        "insert into public.storage_usage (user_id, billing_month, interpretation_count_month)"
        " values (%s, '2000-01', 3)",
        (user,),
    )
    with rows_of(migrated_url) as other:
        other.run("select pg_advisory_lock(hashtext('reactor.repair_usage'))")
        other.run("select pg_advisory_lock(hashtext('reactor.mend_books'))")
        other.run("select set_config('role', %s, false)", (role,))
        for statement in ("select from reactor.usage_repair for update", "lock table reactor.usage_repair"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), other.conn.transaction():
                other.run(statement)
        assert rows.all(statements.REPAIR_USAGE, (10,)) == [("months", 1)]


def test_a_caller_without_a_valid_token_may_not_act_as_the_nil_uuid(rows: Rows) -> None:
    """The user id of callers without a token is the nil UUID. An app may have rows with this user id."""
    source = Api(rows).store(NIL)
    stranger = Api(rows, "authenticated")
    stranger.refused("NOT_ALLOWED", "get_usage", p_user_id=NIL)
    stranger.refused("NOT_ALLOWED", "begin_interpretation", p_source_id=source)


def test_another_users_completed_run_is_not_found(rows: Rows) -> None:
    service = Api(rows)
    run = service.begin(service.store(uuid4()))
    service.ok("complete_interpretation", p_run_id=run)
    Api.of(rows, uuid4()).refused("NOT_FOUND", "complete_interpretation", p_run_id=run)


def test_another_users_failed_run_is_not_found(rows: Rows) -> None:
    service = Api(rows)
    run = service.begin(service.store(uuid4()))
    service.ok("fail_interpretation", p_run_id=run, p_code="LOST")
    Api.of(rows, uuid4()).refused("NOT_FOUND", "fail_interpretation", p_run_id=run, p_code="LOST")


@pytest.mark.parametrize("far", ["infinity", "294276-12-31 23:59:59+00"])
def test_a_heartbeat_far_ahead_does_not_fail_the_apps_write(rows: Rows, far: str) -> None:
    run = rows.start_run(heartbeat_at=rows.at(0), timeout_at=rows.at(600))
    assert rows.run("update public.interpretation_runs set heartbeat_at = %s where id = %s", (far, run)) == 1


@pytest.mark.parametrize("far", ["infinity", "-infinity", "294276-12-31 23:59:59+00"])
def test_a_start_far_ahead_does_not_fail_the_apps_write(rows: Rows, far: str) -> None:
    run = rows.start_run(started_at=far, timeout_at=rows.at(600))
    assert rows.run("select from public.interpretation_runs where heartbeat_at = started_at and id = %s", (run,)) == 1


@pytest.mark.parametrize(
    ("do", "status"),
    [
        ("select * from reactor.rescue_uploads(array[%s]::uuid[], 10)", "failed"),
        ("select * from reactor.requeue_uploads(array[%s]::uuid[])", "dead"),
        ("select * from reactor.cancel_uploads(array[%s]::uuid[])", "dead"),
    ],
    ids=["dead", "requeued", "cancelled"],
)
def test_a_source_that_the_app_has_stored_stays_stored_when_its_upload_ends(
    rows: Rows, do: LiteralString, status: str
) -> None:
    source = rows.source(user := uuid4(), status="uploaded")
    upload = rows.upload(user, source=source, status=status, retry_count=5, max_retries=5)
    assert len(rows.all(do, (upload,))) == 1
    assert rows.source_row(source).storage_status == "uploaded"
    assert rows.usage(user) == (10, 0, 1)
