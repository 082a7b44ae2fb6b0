"""A user's own limit replaces the plan's limit. A user over a lowered limit keeps all data and can't add more."""

from uuid import UUID, uuid4

import pytest
from support.callers import Api, content_hash
from support.rows import Rows


def assert_reservation_refused(api: Api, user: UUID, size: int) -> dict[str, int]:
    arguments = {"p_user_id": user, "p_content_hash": content_hash(), "p_byte_size": size}
    return api.refused("STORAGE_QUOTA_EXCEEDED", "reserve_upload", **arguments)


@pytest.mark.parametrize(("plan", "gib", "runs"), [("free", 1, 100), ("pro", 50, 1000), ("enterprise", None, None)])
def test_each_plan_has_its_limits(api: Api, plan: str, gib: int | None, runs: int | None) -> None:
    usage = api.ok("set_plan", p_user_id=(user := uuid4()), p_plan=plan)
    limit = None if gib is None else gib << 30
    assert (usage["plan"], usage["limit_bytes"], usage["remaining_bytes"]) == (plan, limit, limit)
    assert (usage["interpretation_limit"], usage["interpretations_remaining"]) == (runs, runs)
    if limit is not None:
        assert assert_reservation_refused(api, user, limit + 1)["limit_bytes"] == limit
        api.reserve(user, limit)
        assert assert_reservation_refused(api, user, 1)["reserved_bytes"] == limit


def test_a_user_without_a_usage_row_is_on_the_free_plan_and_reading_it_inserts_none(rows: Rows, api: Api) -> None:
    usage = api.usage(user := uuid4())
    assert (usage["user_id"], usage["plan"], usage["used_bytes"], usage["reserved_bytes"]) == (str(user), "free", 0, 0)
    assert (usage["sources"], usage["interpretations_used"], usage["last_calculated"]) == (0, 0, None)
    assert rows.all("select from public.storage_usage") == []


def test_an_unlimited_plan_refuses_nothing(rows: Rows, api: Api) -> None:
    api.ok("set_plan", p_user_id=(user := uuid4()), p_plan="enterprise")
    for _ in range(3):
        api.reserve(user, 1 << 50)
    rows.run("insert into public.quota_plans (plan, storage_limit_bytes) values ('runs', 0)")
    api.ok("set_plan", p_user_id=(other := uuid4()), p_plan="runs")
    for _ in range(101):
        api.begin(api.store(other, 0))
    assert api.usage(other)["interpretations_remaining"] is None
    assert rows.all("select from reactor.quota_rejection") == []


@pytest.mark.parametrize("plan", ["free", "enterprise"])
def test_a_users_own_limit_replaces_the_plans_even_if_the_plan_has_none(api: Api, plan: str) -> None:
    api.ok("set_plan", p_user_id=(user := uuid4()), p_plan=plan)
    api.limit(user, bytes_=0, runs=0)
    assert assert_reservation_refused(api, user, 1)["limit_bytes"] == 0
    details = api.refused("INTERPRETATION_QUOTA_EXCEEDED", "begin_interpretation", p_source_id=api.store(user, 0))
    assert (details["plan"], details["limit"], details["used"]) == (plan, 0, 0)
    api.limit(user, bytes_=3, runs=None)
    api.begin(api.store(user, 3))


def test_a_plan_that_is_lowered_refuses_new_work_and_loses_nothing(rows: Rows, api: Api) -> None:
    api.ok("set_plan", p_user_id=(user := uuid4()), p_plan="pro")
    stored, reserved = api.store(user, 2 << 30), api.reserve(user, 1 << 30)
    usage = api.ok("set_plan", p_user_id=user, p_plan="free")
    assert (usage["used_bytes"], usage["reserved_bytes"], usage["remaining_bytes"]) == (2 << 30, 1 << 30, 0)
    assert_reservation_refused(api, user, 1)
    api.reserve(user, 0)  # a source of 0 bytes is never over a limit
    api.ok("complete_upload", p_source_id=reserved, p_storage_url="s3://b/k")
    api.begin(stored)
    assert rows.usage(user) == (3 << 30, 0, 2)
    assert {rows.source_row(source).storage_status for source in (stored, reserved)} == {"uploaded"}


def test_a_plan_that_is_lowered_below_the_runs_of_the_month_stops_none_of_them(api: Api) -> None:
    user = uuid4()
    runs = [api.begin(api.store(user)) for _ in range(3)]
    api.limit(user, runs=1)
    assert api.usage(user)["interpretations_remaining"] == 0
    for run in runs:
        api.ok("heartbeat_interpretation", p_run_id=run)
        api.ok("complete_interpretation", p_run_id=run)
    details = api.refused("INTERPRETATION_QUOTA_EXCEEDED", "begin_interpretation", p_source_id=api.store(user))
    assert (details["limit"], details["used"]) == (1, 3)


def test_a_user_over_the_limit_may_add_bytes_once_enough_are_deleted(rows: Rows, api: Api) -> None:
    sources = [api.store(user, 10) for user in [uuid4()] * 3]
    user = rows.source_row(sources[0]).user_id
    api.limit(user, bytes_=25)
    for source, remaining in zip(sources, (5, 15, 25), strict=True):
        assert_reservation_refused(api, user, remaining + 1)
        rows.run("delete from public.sources where id = %s", (source,))
        assert api.usage(user)["remaining_bytes"] == remaining
    api.reserve(user, 25)


def test_a_settlement_is_never_refused_by_a_quota(rows: Rows, api: Api) -> None:
    """After the claims, one reservation is released and the limit is lowered to 0."""
    user = uuid4()
    kept, given_back = api.reserve(user, 10), api.reserve(user, 7)
    uploads, token = [api.fail(kept), api.fail(given_back)], uuid4()
    rows.claim(uploads, token)
    rows.run("update public.sources set storage_status = 'failed' where id = %s", (given_back,))
    api.limit(user, bytes_=0, runs=0)
    settled = rows.settle([(upload, token, "stored") for upload in uploads], url="s3://b/k")
    assert settled == dict.fromkeys(uploads)
    assert rows.usage(user) == (17, 0, 2)
    assert api.usage(user)["remaining_bytes"] == 0
    assert_reservation_refused(api, user, 1)


def test_a_settlement_lifts_the_limit_only_for_itself_and_not_for_its_transaction(rows: Rows, api: Api) -> None:
    user = uuid4()
    upload, token = api.fail(api.reserve(user, 10)), uuid4()
    rows.claim([upload], token)
    api.limit(user, bytes_=10)
    with rows.conn.transaction():
        rows.settle([(upload, token, "stored")])
        assert_reservation_refused(api, user, 1)


def test_a_recount_reports_whether_the_figures_were_wrong(rows: Rows, api: Api) -> None:
    source = api.store(user := uuid4(), 10)
    api.begin(source)
    rows.run("update public.storage_usage set total_bytes = 1, interpretation_count_month = 9")
    first = api.ok("recalculate_usage", p_user_id=user)
    assert (first["changed"], first["used_bytes"], first["interpretations_used"]) == (True, 10, 1)
    assert first["last_calculated"] is not None
    assert api.ok("recalculate_usage", p_user_id=user)["changed"] is False
