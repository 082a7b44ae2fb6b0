"""reactor.status() counts uploads exactly, whichever of its methods of counting it uses."""

from typing import Any, LiteralString
from uuid import uuid4

import pytest
from support.rows import Rows

MANY = 10_050
"""More than 10 000, the maximum number of entries that status() counts one by one."""

PAST: LiteralString = "now() - interval '1 hour' - n * interval '1 ms'"
FUTURE: LiteralString = "now() + interval '1 hour' + n * interval '1 ms'"

FIRST_WITH_FLUSH = 150000


def queue(rows: Rows, count: int, next_retry_at: LiteralString, status: str = "failed", **leased: str) -> None:
    """Queue `count` uploads without firing triggers."""
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
    """Return the part of the status about uploads."""
    uploads: dict[str, Any] = rows.one("select reactor.status('1 minute') as status").status["uploads"]
    return uploads


@pytest.mark.parametrize(
    ("due", "later"),
    [(0, 0), (3, 2), (3, MANY), (MANY, 2), (MANY, MANY)],
    ids=["none", "few", "most of them later", "most of them due", "many of both"],
)
@pytest.mark.parametrize("is_vacuumed", [True, False], ids=["vacuumed", "just written"])
def test_every_count_is_exact(rows: Rows, due: int, later: int, is_vacuumed: bool) -> None:
    queue(rows, due, PAST)
    queue(rows, later, FUTURE)
    queue(rows, 5, PAST, "dead")
    queue(rows, 6, PAST, "cancelled")
    queue(rows, 7, PAST, "uploading")
    queue(rows, 8, PAST, "uploading", until="2000-01-01")
    queue(rows, 9, PAST, "uploading", until="infinity")
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


def test_counts_are_exact_while_many_rows_have_changed_since_the_last_vacuum(rows: Rows) -> None:
    rows.run("alter table public.upload_queue set (autovacuum_enabled = off)")
    queue(rows, 2_000, PAST)
    queue(rows, 1_000, FUTURE)
    rows.run("vacuum analyze public.upload_queue")
    with rows.conn.transaction():
        rows.run("set local session_replication_role = replica")
        rows.run("update public.upload_queue set next_retry_at = next_retry_at - interval '1 minute'")
    rows.run("delete from public.upload_queue where next_retry_at < now() and substr(object_path, 6)::int > 1500")
    if rows.conn.info.server_version >= FIRST_WITH_FLUSH:  # PostgreSQL 14 can't flush on request
        rows.all("select pg_stat_force_next_flush()")
    seen = status_of(rows)
    assert (seen["failed"], seen["due"]) == (2_500, 1_500)


def test_times_without_an_end_are_counted_and_their_age_is_finite(rows: Rows) -> None:
    queue(rows, 1, "'-infinity'")
    queue(rows, 2, "'infinity'")
    seen = status_of(rows)
    assert (seen["failed"], seen["due"]) == (3, 1)
    assert 1.7e9 < seen["oldest_due_age_s"] < 1e10
