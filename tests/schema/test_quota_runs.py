"""Each interpretation is counted once, in the month in which it starts. No user exceeds the plan's limit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from support.callers import Api
from support.rows import Rows, rows_of
from support.usage_check import wrong_usage

CONNECTIONS = 16
REPEATS = 5
MONTH = "to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM')"


def used(rows: Rows, user: UUID) -> int:
    """Return the number of runs counted for the user this month, and check that a recount gives the same number."""
    count: int = Api(rows).usage(user)["interpretations_used"]
    recounted = Api(rows).ok("recalculate_usage", p_user_id=user)
    assert (recounted["changed"], recounted["interpretations_used"]) == (False, count)
    return count


def begin(rows: Rows, source: UUID) -> str:
    answer = Api(rows).call("begin_interpretation", p_source_id=source)
    return "begun" if answer["ok"] else answer["code"]


def insert(rows: Rows, source: UUID) -> str:
    try:
        rows.run(
            "insert into public.interpretation_runs (user_id, source_id, status)"
            " select user_id, id, 'running' from public.sources where id = %s",
            (source,),
        )
    except psycopg.DatabaseError as error:
        return {"RX102": "INTERPRETATION_QUOTA_EXCEEDED"}[error.sqlstate or ""]
    return "begun"


@pytest.mark.parametrize("start", [begin, insert])
def test_of_many_concurrent_starts_with_one_left_exactly_one_succeeds(
    rows: Rows, api: Api, migrated_url: str, start: Callable[[Rows, UUID], str]
) -> None:
    for _ in range(REPEATS):
        api.limit(user := uuid4(), runs=3)
        for _ in range(2):
            api.begin(api.store(user))
        sources, ready = [api.store(user) for _ in range(CONNECTIONS)], Barrier(CONNECTIONS)

        def enter(source: UUID, ready: Barrier = ready) -> str:
            with rows_of(migrated_url) as own:
                ready.wait()
                return start(own, source)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            answers = sorted(pool.map(enter, sources))
        assert answers == ["INTERPRETATION_QUOTA_EXCEEDED"] * (CONNECTIONS - 1) + ["begun"]
        assert used(rows, user) == 3


@pytest.mark.parametrize("start", [begin, insert])
def test_the_first_runs_of_a_user_without_a_usage_row_are_all_counted(
    rows: Rows, migrated_url: str, start: Callable[[Rows, UUID], str]
) -> None:
    user, ready = uuid4(), Barrier(CONNECTIONS)
    sources = [rows.source(user, status="uploaded") for _ in range(CONNECTIONS)]
    rows.run("delete from public.storage_usage")

    def enter(source: UUID) -> str:
        with rows_of(migrated_url) as own:
            ready.wait()
            return start(own, source)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        assert set(pool.map(enter, sources)) == {"begun"}
    assert rows.one("select interpretation_count_month from public.storage_usage")[0] == CONNECTIONS
    rows.all("select reactor.recount_user(%s)", (user,))  # restores the bytes, which were deleted with the usage rows


# months


def turn_back(rows: Rows, months: int = 1) -> None:
    """Set the month of all runs and usage rows to an earlier month."""
    then = f"to_char(clock_timestamp() at time zone 'utc' - interval '{months} month', 'YYYY-MM')"
    with rows.conn.transaction():
        rows.run("set local session_replication_role = replica")
        for table in ("public.interpretation_runs", "public.storage_usage", "reactor.deleted_interpretation"):
            rows.conn.execute(f"update {table} set billing_month = {then} where billing_month is not null".encode())


def test_usage_of_a_past_month_reads_as_zero_before_any_write(rows: Rows, api: Api) -> None:
    api.limit(user := uuid4(), runs=1)
    api.begin(api.store(user))
    turn_back(rows)
    before = rows.one("select storage_usage::text as row, xmin::text from public.storage_usage")
    usage = api.usage(user)
    assert (usage["interpretations_used"], usage["interpretations_remaining"]) == (0, 1)
    assert rows.one("select storage_usage::text as row, xmin::text from public.storage_usage") == before


def test_the_first_run_of_a_month_starts_its_count_at_zero(rows: Rows, api: Api) -> None:
    api.limit(user := uuid4(), runs=2)
    for _ in range(2):
        api.begin(api.store(user))
    turn_back(rows, 11)
    for count in (1, 2):
        api.begin(api.store(user))
        assert used(rows, user) == count
    assert begin(rows, api.store(user)) == "INTERPRETATION_QUOTA_EXCEEDED"
    months = rows.all("select count(*) from public.interpretation_runs group by billing_month")
    assert [month.count for month in months] == [2, 2]
    row = rows.conn.execute(f"select billing_month = {MONTH} from public.storage_usage".encode()).fetchone()
    assert row == (True,)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC"])
def test_months_are_utc_in_every_session_time_zone(rows: Rows, api: Api, zone: str) -> None:
    rows.all("select set_config('timezone', %s, false)", (zone,))
    before, usage, after = datetime.now(UTC), api.usage(uuid4()), datetime.now(UTC)
    ends = []
    for now in (before, after):  # the month may end between the two times
        year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
        ends.append((f"{now:%Y-%m}", datetime(year, month, 1, tzinfo=UTC)))
    assert (usage["billing_month"], datetime.fromisoformat(usage["resets_at"])) in ends


@pytest.mark.parametrize(
    ("moment", "month", "resets_at"),
    [
        ("2026-12-31 23:59:59.999999+00", "2026-12", "2027-01-01 00:00:00+00"),
        ("2027-01-01 00:00:00+00", "2027-01", "2027-02-01 00:00:00+00"),
        ("2028-01-31 12:00:00+00", "2028-01", "2028-02-01 00:00:00+00"),
        ("2028-02-29 23:59:00+00", "2028-02", "2028-03-01 00:00:00+00"),
        ("2027-01-01 05:00:00+14", "2026-12", "2027-01-01 00:00:00+00"),
    ],
)
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York"])
def test_a_month_ends_when_the_next_begins_also_at_the_end_of_a_year(
    rows: Rows, moment: str, month: str, resets_at: str, zone: str
) -> None:
    """The test replaces the clock in the installed effective_quota() by a fixed time."""
    definition = rows.one("select pg_get_functiondef('reactor.effective_quota(uuid)'::regprocedure) as text").text
    assert definition.count("clock_timestamp()") == 1
    rows.conn.execute(definition.replace("clock_timestamp()", f"timestamptz '{moment}'").encode())
    rows.all("select set_config('timezone', %s, false)", (zone,))
    quota = rows.one("select billing_month, resets_at from reactor.effective_quota(%s)", (uuid4(),))
    assert (quota.billing_month, quota.resets_at) == (month, datetime.fromisoformat(resets_at))


# each run is counted once


def test_a_run_is_counted_when_it_starts_and_never_again(rows: Rows, api: Api) -> None:
    run = rows.start_run(user := uuid4(), source=api.store(user), status="pending")
    assert used(rows, user) == 0
    for status in ("running", "pending", "running", "completed", "running", "failed", "running"):
        rows.run("update public.interpretation_runs set status = %s where id = %s", (status, run))
        assert used(rows, user) == 1


@pytest.mark.parametrize(
    "conflict",
    [
        "do nothing",
        "do update set status = excluded.status",
        "do update set status = 'running', billing_month = null",
        "do update set billing_month = excluded.billing_month",
    ],
)
@pytest.mark.parametrize("before", ["pending", "running"])
def test_an_upsert_counts_only_the_runs_that_it_starts(
    rows: Rows, api: Api, conflict: LiteralString, before: str
) -> None:
    source = api.store(user := uuid4())
    run = rows.start_run(user, source=source, status=before)
    for _ in range(2):
        rows.run(
            "insert into public.interpretation_runs (id, user_id, source_id, status) values (%s, %s, %s, 'running')"
            " on conflict (id) " + conflict,
            (run, user, source),
        )
        assert used(rows, user) == int(rows.run_row(run).status == "running")


def test_a_run_that_starts_for_another_user_is_counted_for_that_user(rows: Rows, api: Api) -> None:
    """If the run was counted for another user before, the count of that user is reduced."""
    one, two = uuid4(), uuid4()
    run = rows.start_run(two, source=api.store(two), status="pending")
    for user, other in ((one, two), (two, one)):
        rows.run(
            "update public.interpretation_runs set status = 'running', user_id = %s, billing_month = '2000-01'", (user,)
        )
        assert (used(rows, user), used(rows, other)) == (1, 0)
        rows.run("update public.interpretation_runs set status = 'pending' where id = %s", (run,))


@pytest.mark.parametrize("name", ["before_ours", "their_own"])
def test_a_run_that_an_apps_trigger_starts_while_another_starts_is_counted(
    rows: Rows, api: Api, name: LiteralString
) -> None:
    """Triggers fire in the order of their names, so the app's trigger fires before or after the reactor's."""
    source = api.store(user := uuid4())
    first, second = (rows.start_run(user, source=source, status="pending") for _ in range(2))
    rows.conn.execute(
        "create function public.start_all() returns trigger language plpgsql as $$ begin"
        "  update public.interpretation_runs set status = 'running' where status = 'pending'; return null;"
        " end $$; create trigger " + name + " after update of billing_month on public.interpretation_runs"
        " for each row execute function public.start_all()"
    )
    rows.run("update public.interpretation_runs set status = 'running' where id = %s", (first,))
    assert used(rows, user) == 2
    assert rows.run_row(second).heartbeat_at is not None


def test_an_app_cannot_change_the_month_of_a_run(rows: Rows, api: Api) -> None:
    source = api.store(user := uuid4())
    run = rows.start_run(user, source=source, billing_month="2000-01")
    waiting = rows.start_run(user, source=source, status="pending", billing_month="2000-01")
    assert rows.run_row(waiting).billing_month is None
    for month in ("1999-12", None):
        rows.run("update public.interpretation_runs set billing_month = %s", (month,))
        assert rows.run_row(run).billing_month == f"{rows.at(0).astimezone(UTC):%Y-%m}"
    assert rows.run_row(waiting).billing_month is None
    assert used(rows, user) == 1


def test_a_statement_that_starts_more_runs_than_are_left_starts_none(rows: Rows, api: Api) -> None:
    api.limit(user := uuid4(), runs=3)
    sources = [api.store(user) for _ in range(4)]
    start: LiteralString = (
        "insert into public.interpretation_runs (user_id, source_id, status) select %s, unnest(%s::uuid[]), 'running'"
    )
    with pytest.raises(psycopg.Error, match="INTERPRETATION_QUOTA_EXCEEDED") as raised:
        rows.run(start, (user, sources))
    assert raised.value.sqlstate == "RX102"
    assert '"limit": 3' in str(raised.value.diag.message_detail)
    assert used(rows, user) == 0
    assert rows.run(start, (user, sources[:3])) == 3
    assert used(rows, user) == 3


def test_runs_that_are_deleted_stay_counted(rows: Rows, api: Api) -> None:
    api.limit(user := uuid4(), runs=3)
    source = api.store(user)
    for _ in range(3):
        api.ok("complete_interpretation", p_run_id=api.begin(source))
    rows.run("delete from public.interpretation_runs where ctid = (select min(ctid) from public.interpretation_runs)")
    assert used(rows, user) == 3
    rows.run("delete from public.sources")  # also deletes their runs
    assert used(rows, user) == 3
    assert begin(rows, api.store(user)) == "INTERPRETATION_QUOTA_EXCEEDED"


@pytest.mark.parametrize("tables", ["public.interpretation_runs", "public.sources cascade"])
def test_truncating_releases_the_bytes_and_not_the_interpretations(rows: Rows, api: Api, tables: LiteralString) -> None:
    user, other = uuid4(), uuid4()
    for one in (user, user, other):
        api.begin(source := api.store(one))
    rows.run("delete from public.interpretation_runs where source_id = %s", (source,))
    for _ in range(2):
        rows.run("truncate " + tables)
        assert (used(rows, user), used(rows, other)) == (2, 1)
    assert wrong_usage(rows.conn) == []
    if "sources" in tables:
        assert rows.usage(user) == (0, 0, 0)
    api.begin(api.store(user))
    assert used(rows, user) == 3


def test_a_run_that_moves_to_another_user_moves_its_count(rows: Rows, api: Api) -> None:
    user, other = uuid4(), uuid4()
    run = api.begin(api.store(user))
    rows.run("update public.interpretation_runs set user_id = %s where id = %s", (other, run))
    assert (used(rows, user), used(rows, other)) == (0, 1)
    api.limit(user, runs=0)
    with pytest.raises(psycopg.Error, match="INTERPRETATION_QUOTA_EXCEEDED"):
        rows.run("update public.interpretation_runs set user_id = %s where id = %s", (user, run))
    assert (used(rows, user), used(rows, other)) == (0, 1)
