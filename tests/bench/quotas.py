"""Measure the cost of quotas: time reserve_upload, and compare heartbeat_interpretation with a bare UPDATE.

One connection executes prepared statements, each in its own transaction. Eight users reserve new content in rotation;
a user's first reservation isn't measured. A heartbeat and a bare UPDATE form a pair, in random order. They update 100
runs in one table, and both are HOT updates.
"""

import random
import time
from collections.abc import Sequence
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg

from .report import Report, percentiles_ms
from .server import BenchServer

_RUNS = 100
_USERS = 8
_RESERVE: LiteralString = "select public.reserve_upload(%s, %s, 1000, 'text/plain', 'a.txt')"
_HEARTBEAT: LiteralString = "select public.heartbeat_interpretation(%s)"
_UPDATE: LiteralString = (
    "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = %s returning true"
)


def _timed(conn: psycopg.Connection[Any], statement: LiteralString, parameters: Sequence[Any]) -> float:
    """Return the seconds until a call's answer has arrived. The conversion of the result isn't included."""
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
    """Begin 100 runs of one user, each with a source of its own; return the ids of the runs."""
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
    """Return the durations in seconds of the heartbeats and of the bare UPDATEs."""
    runs = _begin(conn)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(calls):
        pair = [(_HEARTBEAT, ours), (_UPDATE, bare)]
        for turn, (statement, times) in enumerate(pair if random.random() < 0.5 else pair[::-1]):
            times.append(_timed(conn, statement, (runs[(2 * number + turn) % _RUNS],)))
    return ours, bare


def quotas(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Measure reserve_upload alone, and compare heartbeat_interpretation with a bare UPDATE of heartbeat_at."""
    case, calls = "quotas", 300 if bench.quick else 2_000
    with bench.database() as url, psycopg.connect(url, autocommit=True) as conn:
        _heartbeat(conn, _RUNS)  # warm up
        for _ in range(repeats):
            report.add(case, "reserve_upload", **percentiles_ms(_reserve(conn, calls)))
            ours, bare = _heartbeat(conn, calls)
            report.add(case, "heartbeat_interpretation", **percentiles_ms(ours))
            report.add(case, "bare UPDATE", **percentiles_ms(bare))
    return "bare UPDATE"
