"""What reactor.status() says of uploads is exact, whichever way it counts them."""

from typing import Any, LiteralString
from uuid import uuid4

import pytest
from support.rows import Rows

MANY = 10_050
"""More than are counted one by one."""

PAST: LiteralString = "now() - interval '1 hour' - n * interval '1 ms'"
FUTURE: LiteralString = "now() + interval '1 hour' + n * interval '1 ms'"

FIRST_WITH_FLUSH = 150000


def owe(rows: Rows, count: int, next_retry_at: LiteralString, status: str = "failed", **leased: str) -> None:
    """Queue as many, past the triggers."""
    source = rows.source(user := uuid4())
    with rows.conn.transaction():
        rows.run("set local session_replication_role = replica")
        rows.run(
            "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size, status,"
            "                                 next_retry_at, lease_expires_at)"
            f" select %s, %s, 'bucket', 'user/' || n, 1, %s, {next_retry_at}, %s::timestamptz"
            "   from generate_series(1, %s) as n",
            (source, user, status, leased.get("until"), count),
        )


def status_of(rows: Rows) -> dict[str, Any]:
    """Return what it says of uploads."""
    uploads: dict[str, Any] = rows.one("select reactor.status('1 minute') as status").status["uploads"]
    return uploads


@pytest.mark.parametrize(
    ("due", "later"),
    [(0, 0), (3, 2), (3, MANY), (MANY, 2), (MANY, MANY)],
    ids=["none", "few", "most of them later", "most of them due", "many of both"],
)
@pytest.mark.parametrize("is_vacuumed", [True, False], ids=["vacuumed", "just written"])
def test_every_count_is_exact(rows: Rows, due: int, later: int, is_vacuumed: bool) -> None:
    owe(rows, due, PAST)
    owe(rows, later, FUTURE)
    owe(rows, 5, PAST, "dead")
    owe(rows, 6, PAST, "cancelled")
    owe(rows, 7, PAST, "uploading")
    owe(rows, 8, PAST, "uploading", until="2000-01-01")
    owe(rows, 9, PAST, "uploading", until="infinity")
    if is_vacuumed:
        rows.run("vacuum analyze public.upload_queue")
    seen = status_of(rows)
    age_s = seen.pop("oldest_due_age_s")
    assert seen == {
        "failed": due + later,
        "due": due,
        "uploading": 24,
        "leases_expired": 15,
        "dead": 5,
        "cancelled": 6,
    }
    assert age_s == 0 if due == 0 else 3_600 + due / 1_000 <= age_s < 3_600 + due / 1_000 + 60


def test_counts_are_exact_while_much_has_changed_since_vacuum_came_by(rows: Rows) -> None:
    rows.run("alter table public.upload_queue set (autovacuum_enabled = off)")
    owe(rows, 2_000, PAST)
    owe(rows, 1_000, FUTURE)
    rows.run("vacuum analyze public.upload_queue")
    with rows.conn.transaction():
        rows.run("set local session_replication_role = replica")
        rows.run("update public.upload_queue set next_retry_at = next_retry_at - interval '1 minute'")
    rows.run("delete from public.upload_queue where next_retry_at < now() and substr(object_path, 6)::int > 1500")
    if rows.conn.info.server_version >= FIRST_WITH_FLUSH:  # before, statistics come when they come
        rows.all("select pg_stat_force_next_flush()")
    seen = status_of(rows)
    assert (seen["failed"], seen["due"]) == (2_500, 1_500)


def test_times_without_an_end_are_counted_and_their_age_is_finite(rows: Rows) -> None:
    owe(rows, 1, "'-infinity'")
    owe(rows, 2, "'infinity'")
    seen = status_of(rows)
    assert (seen["failed"], seen["due"]) == (3, 1)
    assert 1.7e9 < seen["oldest_due_age_s"] < 1e10
