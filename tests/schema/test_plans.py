"""On large tables, frequent statements read a few pages for each row that they handle, and never the whole table.

EXPLAIN doesn't show the plans of statements inside a function. So the tests measure two numbers: how many pages the
calling statement and its inner statements read, by the plan, and how many rows sequential scans read, by the
transaction's statistics.
"""

import secrets
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from support.rows import Rows, rows_of

from reactor.postgres import statements
from reactor.postgres.migrate import migrate
from reactor.web import listings

ROWS = 100_000
USERS = 2_000
RUNNING = 1_000
WARM_CALLS = 7
"""Calls before the measurement. After five calls, PostgreSQL may choose another plan for a statement."""

FIRST_WITH_FLUSH = 150000
MINUTE = timedelta(minutes=1)

pytestmark = pytest.mark.timeout(180)  # the first test creates the rows


@pytest.fixture(scope="module")
def seeded_url(server_url: str) -> Iterator[str]:
    """URL of a database with 2000 users, 100 000 uploads and 100 000 runs. 1000 of the runs are running."""
    name = sql.Identifier(f"test_{secrets.token_hex(6)}")
    url = urlsplit(server_url)._replace(path=f"/{name.as_string()[1:-1]}").geturl()
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template template0").format(name))
    try:
        migrate(url)
        with rows_of(url) as rows:
            seed(rows)
        yield url
    finally:
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(name))


def seed(rows: Rows) -> None:
    with rows.conn.transaction():
        rows.run("set local session_replication_role = replica")  # faster: skips triggers and foreign keys
        rows.run(
            "insert into public.sources (id, user_id, content_hash, storage_status, byte_size)"
            " select md5('source' || n)::uuid, md5('user' || n)::uuid, n, 'pending', 10"
            "   from generate_series(1, %s) as n",
            (USERS,),
        )
        rows.run(
            "insert into public.upload_queue (id, source_id, user_id, bucket, object_path, byte_size, next_retry_at,"
            "                                 status)"
            " select md5('upload' || n)::uuid, md5('source' || 1 + n %% %s)::uuid, md5('user' || 1 + n %% %s)::uuid,"
            "        'bucket', 'some/path/' || n, 10, now() + (n - 5000) * interval '1 second',"
            "        case when n %% 100 = 0 then 'dead' when n %% 500 = 1 then 'uploading' else 'failed' end"
            "   from generate_series(1, %s) as n",
            (USERS, USERS, ROWS),
        )
        rows.run(
            "insert into public.interpretation_runs (id, user_id, source_id, status, timeout_at, heartbeat_at)"
            " select md5('run' || n)::uuid, md5('user' || 1 + n %% %s)::uuid, md5('source' || 1 + n %% %s)::uuid,"
            "        case when n %% %s = 0 then 'running' else 'completed' end, now() + interval '1 hour', now()"
            "   from generate_series(1, %s) as n",
            (USERS, USERS, ROWS // RUNNING, ROWS),
        )
    rows.run("vacuum analyze")


@pytest.fixture
def rows(seeded_url: str) -> Iterator[Rows]:
    with rows_of(seeded_url) as rows:
        yield rows


def cost(rows: Rows, statement: LiteralString, parameters: tuple[Any, ...]) -> tuple[int, int]:
    """Return the number of pages that a statement reads, and the number of rows that sequential scans read.

    The statement is called WARM_CALLS times first, because PostgreSQL may change its plan after five calls.
    """
    for number in range(WARM_CALLS + 1):
        with rows.conn.transaction():
            if number < WARM_CALLS:
                rows.all(statement, parameters)
            else:
                (row,) = rows.all("explain (analyze, buffers, format json) " + statement, parameters)
                plan = row[0][0]["Plan"]
                scanned = rows.one(
                    "select sum(seq_tup_read)::int as read from pg_stat_xact_user_tables where schemaname = 'public'"
                ).read
            raise psycopg.Rollback
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], scanned


def some(rows: Rows, query: LiteralString, count: int) -> list[Any]:
    return [row.id for row in rows.all(query + " order by id limit %s", (count,))]


def test_a_claim_of_one_upload_reads_a_few_pages(rows: Rows) -> None:
    due = some(rows, "select id from public.upload_queue where status = 'failed' and next_retry_at < now()", 1)
    pages, scanned = cost(rows, statements.CLAIM_UPLOADS, (due, uuid4(), MINUTE))
    assert scanned == 0
    assert pages <= 80


def test_a_claim_of_many_uploads_reads_a_few_pages_for_each(rows: Rows) -> None:
    due = some(rows, "select id from public.upload_queue where status = 'failed' and next_retry_at < now()", 100)
    pages, scanned = cost(rows, statements.CLAIM_UPLOADS, (due, uuid4(), MINUTE))
    assert scanned == 0
    assert pages <= 60 * 100


def test_a_claim_of_unknown_ids_costs_a_look_up_for_each(rows: Rows) -> None:
    pages, scanned = cost(rows, statements.CLAIM_UPLOADS, ([uuid4() for _ in range(100)], uuid4(), MINUTE))
    assert scanned == 0
    assert pages <= 10 * 100


@pytest.mark.parametrize("verdict", ["stored", "retry", "dead"])
def test_a_settlement_reads_a_few_pages_for_each_upload(rows: Rows, verdict: str) -> None:
    token = uuid4()
    with rows.conn.transaction():
        held = some(rows, "select id from public.upload_queue where status = 'uploading'", 50)
        rows.run("update public.upload_queue set lease_token = %s where id = any(%s)", (token, held))
        arguments = (held, [token] * 50, [verdict] * 50, [30.0] * 50, [None] * 50, [None] * 50, [None] * 50, 500, 50)
        pages, scanned = cost(rows, statements.SETTLE_UPLOADS, arguments)
        assert scanned == 0
        assert pages <= 60 * 50
        raise psycopg.Rollback


def test_extending_leases_reads_a_few_pages_for_each_upload(rows: Rows) -> None:
    token = uuid4()
    with rows.conn.transaction():
        held = some(rows, "select id from public.upload_queue where status = 'uploading'", 50)
        rows.run("update public.upload_queue set lease_token = %s where id = any(%s)", (token, held))
        pages, scanned = cost(rows, statements.EXTEND_LEASES, (held, [token] * 50, MINUTE))
        assert scanned == 0
        assert pages <= 50 * 50
        raise psycopg.Rollback


def test_a_sweep_of_uploads_walks_the_index_from_user_to_user(rows: Rows) -> None:
    pages, scanned = cost(rows, statements.SWEEP_UPLOADS, (timedelta(minutes=15), 1000, 20_000))
    assert scanned == 0
    assert pages <= 12 * USERS + 2 * 6_000  # 12 for each user's look-up, 2 for each due row


def test_a_small_sweep_stops_at_its_limit(rows: Rows) -> None:
    pages, scanned = cost(rows, statements.SWEEP_UPLOADS, (timedelta(minutes=15), 10, 50))
    assert scanned == 0
    assert pages <= 2_000


@pytest.mark.parametrize("by_id", [True, False])
def test_a_rescue_reads_only_leased_and_exhausted_uploads(rows: Rows, by_id: bool) -> None:
    with rows.conn.transaction():
        due: LiteralString = "select id from public.upload_queue where status = 'failed' and next_retry_at < now()"
        exhausted = some(rows, due, 50)
        rows.run("update public.upload_queue set retry_count = max_retries where id = any(%s)", (exhausted,))
        pages, scanned = cost(rows, statements.RESCUE_UPLOADS, (exhausted if by_id else None, 1000))
        assert scanned == 0
        assert pages <= 50 * (50 + 400)
        raise psycopg.Rollback


def test_expiring_runs_that_are_alive_costs_a_look_up_for_each(rows: Rows) -> None:
    running = some(rows, "select id from public.interpretation_runs where status = 'running'", 100)
    pages, scanned = cost(rows, statements.EXPIRE_RUNS, (running, timedelta(hours=1)))
    assert scanned == 0
    assert pages <= 12 * 100


def test_expiring_stale_runs_reads_a_few_pages_for_each(rows: Rows) -> None:
    running = some(rows, "select id from public.interpretation_runs where status = 'running'", 100)
    pages, scanned = cost(rows, statements.EXPIRE_RUNS, (running, timedelta(microseconds=1)))
    assert scanned == 0
    assert pages <= 60 * 100


def test_a_sweep_of_runs_reads_only_running_ones(rows: Rows) -> None:
    pages, scanned = cost(rows, statements.SWEEP_RUNS, (timedelta(hours=2), MINUTE, 10_000))
    assert scanned == 0
    assert pages <= 3 * RUNNING


def test_heartbeats_and_extended_leases_touch_no_index(migrated_url: str) -> None:
    """At least 95% of the updates are HOT. With an index on heartbeat_at or lease_expires_at, none would be HOT."""
    with rows_of(migrated_url) as rows:
        if rows.conn.info.server_version < FIRST_WITH_FLUSH:
            pytest.skip("PostgreSQL 14 can't flush statistics on request")
        source, token = rows.source(user := uuid4()), uuid4()
        runs = [rows.start_run(user, source=source) for _ in range(100)]
        uploads = rows.uploads(100, user)
        rows.claim(uploads, token)
        flushed = "select pg_stat_force_next_flush()"
        rows.all(flushed)
        counts: LiteralString = (
            "select relname, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables"
            " where relname in ('interpretation_runs', 'upload_queue') order by relname"
        )
        before = rows.all(counts)
        for number in range(2000):
            rows.run(
                "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = %s",
                (runs[number % 100],),
            )
            rows.extend([uploads[number % 100]], [token])
        rows.all(flushed)
        after = rows.all(counts)
    updates = [b.n_tup_upd - a.n_tup_upd for a, b in zip(before, after, strict=True)]
    hot = [b.n_tup_hot_upd - a.n_tup_hot_upd for a, b in zip(before, after, strict=True)]
    assert updates == [2000, 2000]
    assert min(hot) >= 0.95 * 2000


def test_a_live_summary_reads_only_what_it_counts(rows: Rows) -> None:
    """The number of pages doesn't depend on the length of the queue, here 100 000 uploads."""
    pages, scanned = cost(rows, statements.LIVE_SUMMARY, (MINUTE, 1_000))
    assert scanned == 0
    assert pages <= 6_000


@pytest.mark.parametrize("status", sorted(listings.UPLOADS))
@pytest.mark.parametrize("moment", ["-infinity", "2026-01-01T00:00:00+00:00", "infinity"])
def test_a_page_of_uploads_reads_a_few_pages_wherever_it_is(rows: Rows, status: str, moment: str) -> None:
    pages, scanned = cost(rows, listings.UPLOADS[status], (moment, UUID(int=1), 51, *[None] * 6, 51))
    assert scanned == 0
    assert pages <= 600


def test_a_page_of_runs_reads_a_few_pages(rows: Rows) -> None:
    for statement in (listings.RUNNING, listings.RUNS):
        pages, scanned = cost(rows, statement, ("infinity", UUID(int=1), 51, *[None] * 6, 51))
        assert scanned == 0
        assert pages <= 3_000
