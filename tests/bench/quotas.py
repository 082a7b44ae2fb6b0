"""What quotas cost: reserve_upload by itself, and heartbeat_interpretation beside a bare UPDATE of heartbeat_at.

One connection, statements prepared, every call a transaction of its own. Users reserve new content by turns; a first
row of a user and its books aren't counted. A heartbeat and a bare UPDATE take turns, in an order that changes with
every pair, each on a run of its own out of 100; both are HOT updates of rows of the same table.
"""

import random
import time
from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg

from .report import Report, percentiles_ms
from .stage import Stage

_RUNS = 100
_USERS = 8
_RESERVE: LiteralString = "select public.reserve_upload(%s, %s, 1000, 'text/plain', 'a.txt')"
_HEARTBEAT: LiteralString = "select public.heartbeat_interpretation(%s)"
_UPDATE: LiteralString = (
    "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = %s returning true"
)


def _timed(conn: psycopg.Connection[Any], statement: LiteralString, parameters: Sequence[Any]) -> float:
    """Return how many seconds pass until a call's answer is here; what Python makes of it isn't counted."""
    before = time.perf_counter()
    cursor = conn.execute(statement, parameters, prepare=True)
    took_s = time.perf_counter() - before
    row = cursor.fetchone()
    assert row is not None
    assert row[0] is True or row[0]["ok"], row
    return took_s


def _reserve(conn: psycopg.Connection[Any], calls: int) -> list[float]:
    users = [uuid4() for _ in range(_USERS)]
    for user in users:
        conn.execute("select public.set_plan(%s, 'enterprise')", (user,))
        _timed(conn, _RESERVE, (user, f"{random.getrandbits(256):064x}"))
    return [_timed(conn, _RESERVE, (users[n % _USERS], f"{random.getrandbits(256):064x}")) for n in range(calls)]


def _begin(conn: psycopg.Connection[Any]) -> list[UUID]:
    """Begin the runs, one of each of as many sources of one user; return them."""
    user = uuid4()
    conn.execute("select public.set_plan(%s, 'enterprise')", (user,))
    rows = conn.execute(
        "with source as (insert into public.sources (user_id, content_hash, byte_size, storage_url)"
        " select %s, gen_random_uuid()::text, 1, 'file:///x' from generate_series(1, %s) returning id)"
        " insert into public.interpretation_runs (user_id, source_id, status, timeout_at, heartbeat_timeout)"
        " select %s, id, 'running', now() + interval '1 day', '1 hour' from source returning id",
        (user, _RUNS, user),
    ).fetchall()
    return [row[0] for row in rows]


def _heartbeat(conn: psycopg.Connection[Any], calls: int) -> tuple[list[float], list[float]]:
    """Return what heartbeats and bare updates took."""
    runs = _begin(conn)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(calls):
        pair = [(_HEARTBEAT, ours), (_UPDATE, bare)]
        for turn, (statement, times) in enumerate(pair if random.random() < 0.5 else pair[::-1]):
            times.append(_timed(conn, statement, (runs[(2 * number + turn) % _RUNS],)))
    return ours, bare


def quotas(stage: Stage, report: Report, repeats: int) -> str | None:
    """reserve_upload by itself, and heartbeat_interpretation beside a bare UPDATE of heartbeat_at."""
    case, calls = "quotas", 300 if stage.quick else 2_000
    with stage.database() as url, psycopg.connect(url, autocommit=True) as conn:
        _heartbeat(conn, _RUNS)  # warm
        for _ in range(repeats):
            report.add(case, "reserve_upload", **percentiles_ms(_reserve(conn, calls)))
            ours, bare = _heartbeat(conn, calls)
            report.add(case, "heartbeat_interpretation", **percentiles_ms(ours))
            report.add(case, "bare UPDATE", **percentiles_ms(bare))
    return "bare UPDATE"
