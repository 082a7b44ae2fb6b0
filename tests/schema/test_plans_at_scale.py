"""On a table of 1 000 000 rows, every hot statement finds what it needs by an index, and touches little beside it.

Asked of a server that explains each statement, those inside functions and triggers too: with their real plans, the rows
that they threw away, and the pages that they touched.
"""

import json
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString
from uuid import uuid4

import own_server
import psycopg
import pytest
from attrs import frozen
from psycopg.rows import namedtuple_row

from reactor.edge import statements
from reactor.edge.migrate import migrate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROWS = 1_000_000
USERS = 10_000
LEASED = 2_000
RUNNING = 5_000
MINUTE = timedelta(minutes=1)
LARGE = {"upload_queue", "sources", "interpretation_runs"}
WARM_CALLS = 7
"""More than the five after which PostgreSQL may choose another plan for the same statement."""

WAITING: LiteralString = "select id from public.upload_queue where status = 'failed' and next_retry_at < now()"
HELD: LiteralString = "select id from public.upload_queue where status = 'uploading'"
ALIVE: LiteralString = "select id from public.interpretation_runs where status = 'running'"


@frozen
class Explained:
    """What a statement did, with all that it called."""

    pages: int
    indexes: set[str]
    scanned: set[str]
    """Tables of LARGE that were read from end to end."""

    thrown_away: int
    """The most rows that one step read in vain."""


def _programs() -> Path | None:
    """Return the programs of a server that has auto_explain; None where there is none."""
    asked = own_server.programs()
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
        with own_server.own_server(fsync="off", max_wal_size="4GB") as server:
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
        conn.execute("set local session_replication_role = replica")  # no trigger, no foreign key: fast
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
            "        case when n %% 1000 = 0 then 'dead' when l.is_leased then 'uploading' else 'failed' end,"
            "        case when l.is_leased then md5('token')::uuid end,"
            "        case when l.is_leased then now() + interval '1 h' end, l.is_leased::int"
            "   from generate_series(1, %s) as n cross join lateral (select n %% %s = 1 as is_leased) as l",
            (USERS, ROWS, ROWS // LEASED),
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
    """Run it as a long-lived connection does, and tell of the last time; the others are taken back."""
    plans: list[dict[str, Any]] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        text = notice.message_primary or ""
        if text.startswith("duration:"):
            plans.append(json.loads(text[text.index("{") :])["Plan"])

    for _ in range(WARM_CALLS):
        with conn.transaction():
            conn.execute(statement, parameters, prepare=True).fetchall()
            raise psycopg.Rollback
    conn.add_notice_handler(hear)
    conn.execute("set local client_min_messages = log")
    conn.execute("set local auto_explain.log_min_duration = 0")
    conn.execute(statement, parameters, prepare=True).fetchall()
    conn.execute("set local auto_explain.log_min_duration = -1")
    conn.remove_notice_handler(hear)
    nodes = [node for plan in plans for node in _nodes(plan)]
    whole = plans[-1]  # who calls ends last, and its pages are all pages
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


def test_a_claim_of_rows_that_are_gone_costs_two_look_ups_each(conn: psycopg.Connection[Any]) -> None:
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
    arguments = (held, [token] * count, [verdict] * count, [30.0] * count, nothing, nothing, nothing)
    seen = explained(conn, statements.SETTLE_UPLOADS, arguments)
    assert seen.scanned == set()
    assert seen.thrown_away <= 2 * count  # each attempt against each lease would be a quarter of a million
    assert seen.pages <= 200 + 100 * count


def test_extending_leases_looks_each_row_up(conn: psycopg.Connection[Any]) -> None:
    token = uuid4()
    held = _some(conn, HELD, 500)
    conn.execute("update public.upload_queue set lease_token = %s where id = any(%s)", (token, held))
    seen = explained(conn, statements.EXTEND_LEASES, (held, [token] * 500, MINUTE))
    assert seen.scanned == set()
    assert seen.thrown_away <= 2 * 500
    assert seen.pages <= 200 + 60 * 500


def test_a_sweep_stops_as_soon_as_it_has_enough(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.SWEEP_UPLOADS, (timedelta(minutes=15), 200, 2_000))
    assert seen.scanned == set()
    assert "upload_queue_waiting" in seen.indexes
    assert seen.pages <= 10 * (2_000 + LEASED) + 5 * USERS


def test_a_rescue_reads_the_leased_and_the_exhausted_alone(conn: psycopg.Connection[Any]) -> None:
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


def test_a_sweep_of_runs_reads_the_running_ones_alone(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.SWEEP_RUNS, (timedelta(hours=2), MINUTE, 10_000))
    assert "interpretation_runs_running" in seen.indexes
    assert seen.pages <= 200 + 2 * RUNNING


def test_a_heartbeat_touches_its_run_alone(conn: psycopg.Connection[Any]) -> None:
    (alive,) = _some(conn, ALIVE, 1)
    seen = explained(conn, statements.HEARTBEAT_INTERPRETATION, (alive,))
    assert seen.scanned == set()
    assert seen.pages <= 60


def test_a_scrape_counts_what_waits_in_an_index_and_reads_of_the_tables_what_is_under_way(
    conn: psycopg.Connection[Any], seeded_url: str
) -> None:
    with psycopg.connect(seeded_url, autocommit=True) as other:
        other.execute("vacuum public.upload_queue")  # the other tests took back many changes
    (index,) = conn.execute("select pg_relation_size('public.upload_queue_by_due') / 8192 as pages").fetchall()
    (due,) = conn.execute(f"select count(*) as count from ({WAITING}) as w").fetchall()
    seen = explained(conn, statements.STATUS, (MINUTE,))
    assert seen.scanned == set()
    assert {"upload_queue_by_due", "upload_queue_leased", "upload_queue_given_up"} <= seen.indexes
    assert seen.indexes & {"interpretation_runs_running", "interpretation_runs_running_by_age"}
    assert 5_000 <= due.count < 10_000
    assert seen.pages <= 100 + 1.1 * index.pages + 1.2 * (due.count + LEASED + RUNNING)


def test_a_glance_reads_nothing_beyond_its_cap(conn: psycopg.Connection[Any]) -> None:
    seen = explained(conn, statements.GLANCE, (MINUTE, 1_000))
    assert seen.scanned == set()
    assert seen.pages <= 6_000
