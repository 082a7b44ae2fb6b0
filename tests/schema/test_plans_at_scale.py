"""On tables of 1 000 000 rows, every statement of the reactor finds its rows with an index and reads few other pages.

auto_explain logs the plan of each statement, including statements inside functions and triggers, and shows for each
step how many rows were discarded and how many pages were read.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
import pytest
from attrs import frozen
from psycopg.rows import namedtuple_row
from support.servers import postgres

from reactor.postgres import statements
from reactor.postgres.migrate import migrate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 1_000_000
USERS = 10_000
LEASED = 2_000
DEAD_ROWS = 1_000
RUNNING = 5_000
MINUTE = timedelta(minutes=1)
LARGE = {"upload_queue", "sources", "interpretation_runs"}
OF_RUNNING = {"interpretation_runs_running", "interpretation_runs_running_by_age"}
WARM_CALLS = 7
"""Calls before the measurement. After five calls, PostgreSQL may choose another plan for a statement."""

WAITING: LiteralString = "select id from public.upload_queue where status = 'failed' and next_retry_at < now()"
HELD: LiteralString = "select id from public.upload_queue where status = 'uploading'"
DEAD: LiteralString = "select id from public.upload_queue where status = 'dead'"
ALIVE: LiteralString = "select id from public.interpretation_runs where status = 'running'"


@frozen
class Explained:
    """What a statement did, including the functions and triggers that it called."""

    pages: int
    indexes: set[str]
    scanned: set[str]
    """Tables of LARGE that were read in a sequential scan."""

    thrown_away: int
    """The maximum number of rows that one step of a plan read and discarded."""


def _programs() -> Path | None:
    """Return the folder with the programs of a PostgreSQL that has auto_explain, or None if none is installed."""
    asked = postgres.programs()
    for folder in [asked] if asked else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if list(folder.parent.glob("lib/**/auto_explain.so")):
            return folder
    return None


@pytest.fixture(scope="module")
def seeded_url() -> Iterator[str]:
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL with auto_explain here: install postgresql, or set REACTOR_TEST_POSTGRES_BIN")
    before = os.environ.get("REACTOR_TEST_POSTGRES_BIN")
    os.environ["REACTOR_TEST_POSTGRES_BIN"] = str(programs)
    try:
        with postgres.own_server(fsync="off", max_wal_size="4GB") as server:
            migrate(server.url)
            with psycopg.connect(server.url, autocommit=True) as conn:
                _seed(conn)
            yield server.url
    finally:
        if before is None:
            del os.environ["REACTOR_TEST_POSTGRES_BIN"]
        else:
            os.environ["REACTOR_TEST_POSTGRES_BIN"] = before


def _seed(conn: psycopg.Connection) -> None:
    with conn.transaction():
        conn.execute("set local session_replication_role = replica")  # faster: skips triggers and foreign keys
        conn.execute(
            "insert into public.sources (id, user_id, content_hash, storage_status, byte_size)"
            " select md5('source' || n)::uuid, md5('user' || n %% %s)::uuid, n, 'pending', 10"
            "   from generate_series(1, %s) as n",
            (USERS, ROWS),
        )
        conn.execute(
            "insert into public.upload_queue (id, source_id, user_id, bucket, object_path, byte_size, next_retry_at,"
            "                                 status, lease_token, lease_expires_at, retry_count)"
            " select md5('upload' || n)::uuid, md5('source' || n)::uuid, md5('user' || n %% %s)::uuid,"
            "        'bucket', 'some/path/' || n, 10, now() + (n - 5000) * interval '1 second',"
            "        case when n %% %s = 0 then 'dead' when l.is_leased then 'uploading' else 'failed' end,"
            "        case when l.is_leased then md5('token')::uuid end,"
            "        case when l.is_leased then now() + interval '1 h' end, l.is_leased::int"
            "   from generate_series(1, %s) as n cross join lateral (select n %% %s = 1 as is_leased) as l",
            (USERS, ROWS // DEAD_ROWS, ROWS, ROWS // LEASED),
        )
        conn.execute(
            "insert into public.interpretation_runs (id, user_id, source_id, status, timeout_at, heartbeat_at)"
            " select md5('run' || n)::uuid, md5('user' || n %% %s)::uuid, md5('source' || n)::uuid,"
            "        case when n %% %s = 0 then 'running' else 'completed' end, now() + interval '1 hour', now()"
            "   from generate_series(1, %s) as n",
            (USERS, ROWS // RUNNING, ROWS),
        )
    conn.execute("insert into public.storage_usage (user_id) select distinct user_id from public.sources")
    conn.execute("select reactor.recount_users(null, %s)", (USERS,))
    conn.execute("vacuum analyze")


@pytest.fixture
def conn(seeded_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(seeded_url, autocommit=True, row_factory=namedtuple_row) as conn:
        conn.execute("load 'auto_explain'")
        conn.execute("set auto_explain.log_analyze = on")
        conn.execute("set auto_explain.log_buffers = on")
        conn.execute("set auto_explain.log_timing = off")
        conn.execute("set auto_explain.log_format = json")
        conn.execute("set auto_explain.log_nested_statements = on")
        conn.execute("set auto_explain.log_level = log")
        with conn.transaction():
            yield conn
            raise psycopg.Rollback


def explained(conn: psycopg.Connection[Any], statement: LiteralString, parameters: Sequence[Any]) -> Explained:
    """Run a prepared statement several times and explain the last call. The earlier calls are rolled back."""
    plans: list[dict[str, Any]] = []

    def on_notice(notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if text.startswith("duration:"):
            plans.append(json.loads(text[text.index("{") :]))

    for _ in range(WARM_CALLS):
        with conn.transaction():
            conn.execute(statement, parameters, prepare=True).fetchall()
            raise psycopg.Rollback
    conn.add_notice_handler(on_notice)
    conn.execute("set local client_min_messages = log")
    conn.execute("set local auto_explain.log_min_duration = 0")
    conn.execute(statement, parameters, prepare=True).fetchall()
    conn.execute("set local auto_explain.log_min_duration = -1")
    conn.remove_notice_handler(on_notice)
    assert not any("JIT" in each for each in plans)  # JIT compilation takes longer than any of these statements
    nodes = [node for each in plans for node in _nodes(each["Plan"])]
    whole = plans[-1]["Plan"]  # the calling statement ends last, and its pages include those of the inner statements
    return Explained(
        pages=whole["Shared Hit Blocks"] + whole["Shared Read Blocks"],
        indexes={node["Index Name"] for node in nodes if "Index Name" in node and node["Actual Loops"]},
        scanned={node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan" and node["Actual Loops"]}
        & LARGE,
        thrown_away=max(
            int(node.get(kind, 0) * node["Actual Loops"])
            for node in nodes
            for kind in ("Rows Removed by Filter", "Rows Removed by Join Filter", "Rows Removed by Index Recheck")
            if kind in node or kind == "Rows Removed by Filter"
        ),
    )


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from _nodes(below)


def _some(conn: psycopg.Connection[Any], query: LiteralString, count: int) -> list[Any]:
    return [row.id for row in conn.execute(query + " order by md5(id::text) limit %s", (count,)).fetchall()]


@pytest.mark.parametrize("count", [1, 500])
def test_a_claim_looks_each_row_up(conn: psycopg.Connection[Any], count: int) -> None:
    seen = explained(conn, statements.CLAIM_UPLOADS, (_some(conn, WAITING, count), uuid4(), MINUTE))
    assert seen.scanned == set()
    assert {"upload_queue_pkey", "sources_pkey"} <= seen.indexes
    assert seen.thrown_away <= 2 * count
    assert seen.pages <= 100 + 60 * count


def test_a_claim_of_deleted_rows_costs_two_look_ups_each(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.CLAIM_UPLOADS, ([uuid4() for _ in range(500)], uuid4(), MINUTE))
    assert seen.scanned == set()
    assert seen.pages <= 100 + 10 * 500


@pytest.mark.parametrize("count", [1, 500])
@pytest.mark.parametrize("verdict", ["stored", "retry", "dead", "deferred"])
def test_a_settlement_looks_each_row_up(conn: psycopg.Connection[Any], verdict: str, count: int) -> None:
    token = uuid4()
    held = _some(conn, HELD, count)
    conn.execute("update public.upload_queue set lease_token = %s where id = any(%s)", (token, held))
    nothing = [None] * count
    arguments = (held, [token] * count, [verdict] * count, [30.0] * count, nothing, nothing, nothing, 500, count)
    seen = explained(conn, statements.SETTLE_UPLOADS, arguments)
    assert seen.scanned == set()
    assert seen.thrown_away <= 2 * count  # comparing each attempt with each lease would discard 250 000 rows
    assert seen.pages <= 200 + 100 * count


def test_extending_leases_looks_each_row_up(conn: psycopg.Connection[Any]) -> None:
    token = uuid4()
    held = _some(conn, HELD, 500)
    conn.execute("update public.upload_queue set lease_token = %s where id = any(%s)", (token, held))
    seen = explained(conn, statements.EXTEND_LEASES, (held, [token] * 500, MINUTE))
    assert seen.scanned == set()
    assert seen.thrown_away <= 2 * 500
    assert seen.pages <= 200 + 60 * 500


def test_a_sweep_stops_at_its_limit(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.SWEEP_UPLOADS, (timedelta(minutes=15), 200, 2_000))
    assert seen.scanned == set()
    assert "upload_queue_waiting" in seen.indexes
    assert seen.pages <= 10 * (2_000 + LEASED) + 5 * USERS


def test_a_rescue_reads_only_leased_and_exhausted_uploads(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "update public.upload_queue set lease_expires_at = now() where id = any(%s)", (_some(conn, HELD, 100),)
    )
    seen = explained(conn, statements.RESCUE_UPLOADS, (None, 500))
    assert seen.scanned == set()
    assert seen.pages <= 10 * LEASED + 100 * 100


def test_expiring_runs_looks_each_up(conn: psycopg.Connection[Any]) -> None:
    alive = _some(conn, ALIVE, 500)
    for patience, pages in ((timedelta(hours=1), 15 * 500), (timedelta(microseconds=1), 80 * 500)):
        seen = explained(conn, statements.EXPIRE_RUNS, (alive, patience))
        assert seen.scanned == set()
        assert seen.pages <= 200 + pages


def test_a_sweep_of_runs_reads_only_running_ones(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.SWEEP_RUNS, (timedelta(hours=2), MINUTE, 10_000))
    assert seen.scanned == set()
    assert seen.indexes & OF_RUNNING
    assert seen.pages <= 200 + 2 * RUNNING


def test_a_heartbeat_reads_only_its_run(conn: psycopg.Connection[Any]) -> None:
    (alive,) = _some(conn, ALIVE, 1)
    seen = explained(conn, statements.HEARTBEAT_INTERPRETATION, (alive,))
    assert seen.scanned == set()
    assert seen.pages <= 60


def test_a_status_counts_waiting_uploads_in_an_index_and_reads_only_claimed_rows_of_the_tables(
    conn: psycopg.Connection[Any], seeded_url: str
) -> None:
    with psycopg.connect(seeded_url, autocommit=True) as other:
        other.execute("vacuum public.upload_queue")  # changes that other tests rolled back left dead rows
    (index,) = conn.execute("select pg_relation_size('public.upload_queue_by_due') / 8192 as pages").fetchall()
    (due,) = conn.execute(f"select count(*) as count from ({WAITING}) as w").fetchall()
    seen = explained(conn, statements.STATUS, (MINUTE,))
    assert seen.scanned == set()
    assert {"upload_queue_by_due", "upload_queue_leased"} <= seen.indexes
    assert seen.indexes & {"upload_queue_ended", "upload_queue_given_up"}
    assert seen.indexes & OF_RUNNING
    assert 4_000 <= due.count < 10_000
    assert seen.pages <= 500 + 1.1 * index.pages + 1.2 * (due.count + LEASED + DEAD_ROWS + RUNNING)


def test_a_live_summary_reads_nothing_beyond_its_cap(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.LIVE_SUMMARY, (MINUTE, 1_000))
    assert seen.scanned == set()
    assert seen.pages <= 6_000


def test_the_fullest_users_are_found_in_storage_usage_alone(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.FULLEST_USERS, (20,))
    assert seen.scanned == set()
    assert seen.pages <= 5 * USERS  # the pages of storage_usage, and at most two look-ups for each user


def test_confirming_settlements_looks_each_up(conn: psycopg.Connection[Any]) -> None:
    sources = _some(conn, "select source_id as id from public.upload_queue where status = 'dead'", 500)
    conn.execute(
        "update public.sources set storage_status = 'uploaded', storage_url = 'some://where' where id = any(%s)",
        (sources,),
    )
    arguments = ([uuid4() for _ in sources], sources, ["some://where"] * 500)
    seen = explained(conn, statements.CONFIRM_STORED, arguments)
    assert seen.scanned == set()
    assert {"upload_queue_pkey", "sources_pkey"} <= seen.indexes
    assert seen.pages <= 100 + 10 * 500


@pytest.mark.parametrize("leaked", [0, 100])
def test_repairing_usage_finds_leaked_reservations_by_their_age(conn: psycopg.Connection[Any], leaked: int) -> None:
    sources = _some(conn, "select source_id as id from public.upload_queue where status = 'failed'", leaked)
    conn.execute("delete from public.upload_queue where source_id = any(%s)", (sources,))
    conn.execute(
        "update public.sources set pending_since = now() - interval '2 days' where id = any(%s)",
        (sources,),
    )
    seen = explained(conn, statements.REPAIR_USAGE, (1_000,))
    assert seen.scanned == set()
    assert "sources_pending" in seen.indexes
    assert seen.pages <= 200 + 100 * leaked


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (statements.REPORT_PRESENCE, (uuid4(), "host", 7, 8321, "1.0", "listening", None, MINUTE)),
        (statements.DEREGISTER_INSTANCE, (uuid4(),)),
        (statements.MISSING_PRIVILEGES, ()),
        (statements.CLOCK, ()),
    ],
    ids=["presence", "deregister", "missing privileges", "clock"],
)
def test_what_concerns_the_reactor_itself_reads_no_large_table(
    conn: psycopg.Connection[Any], statement: LiteralString, parameters: tuple[Any, ...]
) -> None:
    seen = explained(conn, statement, parameters)
    assert seen.scanned == set()
    assert not any(index.startswith(tuple(LARGE)) for index in seen.indexes)
    assert seen.pages <= 300


def test_a_call_of_the_api_costs_a_few_look_ups(conn: psycopg.Connection[Any]) -> None:
    conn.execute("update public.quota_plans set storage_limit_bytes = null, interpretation_limit_month = null")
    (user,) = _some(conn, "select u.id from (select user_id as id from public.storage_usage) as u", 1)
    new = (user, "0" * 64, 10, None, None, None, None, "{}")
    reserved = conn.execute(statements.RESERVE_UPLOAD, (user, "1" * 64, *new[2:])).fetchall()[0].reserve_upload
    (stored,) = _some(conn, "select id from public.sources", 1)
    conn.execute("update public.sources set storage_status = 'uploaded', storage_url = 's' where id = %s", (stored,))
    (running,) = _some(conn, ALIVE, 1)
    source = reserved["source_id"]
    failure = (source, "bucket", "some/path", "some/file", "away", "default", None, 5, "{}")
    calls: list[tuple[LiteralString, tuple[Any, ...]]] = [
        (statements.RESERVE_UPLOAD, new),
        (statements.FAIL_UPLOAD, failure),
        (statements.COMPLETE_UPLOAD, (source, "s://y")),
        (statements.GET_USAGE, (user,)),
        (statements.BEGIN_INTERPRETATION, (stored, "{}", MINUTE, MINUTE, None, uuid4())),
        (statements.COMPLETE_INTERPRETATION, (running,)),
        (statements.FAIL_INTERPRETATION, (running, "INTERPRETATION_FAILED", "no")),
    ]
    for statement, parameters in calls:
        with conn.transaction():
            seen = explained(conn, statement, parameters)
            assert conn.execute(statement, parameters).fetchall()[0][0]["ok"], statement
            assert seen.scanned == set(), statement
            assert seen.pages <= 300, statement
            raise psycopg.Rollback


@pytest.mark.parametrize(
    ("action", "chosen", "count"),
    [("retry", DEAD, 500), ("cancel", WAITING, 500), ("purge", DEAD, 500), ("fail", ALIVE, 500)],
)
def test_an_operators_change_looks_each_row_up(
    conn: psycopg.Connection[Any], action: str, chosen: LiteralString, count: int
) -> None:
    ids = _some(conn, chosen, count)
    seen = explained(conn, statements.OPERATE, (uuid4(), "ana", "127.0.0.1", action, ids, None, "by hand"))
    assert seen.scanned == set()
    assert seen.thrown_away <= 2 * count
    assert seen.pages <= 300 + 100 * count


def test_every_statement_is_explained_here() -> None:
    named = {name for name in vars(statements) if name.isupper()}
    assert set(re.findall(r"statements\.([A-Z_]+)", Path(__file__).read_text(encoding="utf-8"))) == named
