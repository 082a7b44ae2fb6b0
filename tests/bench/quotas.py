"""What quotas cost: reserve_upload by itself, and heartbeat_interpretation beside a bare UPDATE of heartbeat_at.

    python tests/bench/quotas.py [--repeats 5] [--calls 2000]

Starts a PostgreSQL of its own with default durability (fsync on). One connection, statements prepared, every call a
transaction of its own. In each repeat:

* reserve: the 1st to the 8th user in turn reserve new content; a first row of a user and its books aren't counted;
* heartbeat: a heartbeat and a bare UPDATE take turns, in an order that changes with every pair, each on a run of its
  own out of 100; both are HOT updates of rows of the same table.

Prints medians and spreads in milliseconds, and the ratio of heartbeat to UPDATE. Figures of one run may be compared, no
others.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg

from reactor.edge.embedded import EmbeddedPostgres
from reactor.edge.migrate import migrate

RUNS = 100
USERS = 8
RESERVE: LiteralString = "select public.reserve_upload(%s, %s, 1000, 'text/plain', 'a.txt')"
HEARTBEAT: LiteralString = "select public.heartbeat_interpretation(%s)"
UPDATE: LiteralString = (
    "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = %s returning true"
)


def timed(conn: psycopg.Connection[Any], statement: LiteralString, parameters: Sequence[Any]) -> float:
    """Return how many milliseconds pass until a call's answer is here; what Python makes of it isn't counted."""
    before = time.perf_counter()
    cursor = conn.execute(statement, parameters, prepare=True)
    took_ms = 1000 * (time.perf_counter() - before)
    row = cursor.fetchone()
    assert row is not None
    assert row[0] is True or row[0]["ok"], row
    return took_ms


def reserve(conn: psycopg.Connection[Any], calls: int) -> list[float]:
    users = [uuid4() for _ in range(USERS)]
    for user in users:
        conn.execute("select public.set_plan(%s, 'enterprise')", (user,))
        timed(conn, RESERVE, (user, f"{random.getrandbits(256):064x}"))
    return [timed(conn, RESERVE, (users[n % USERS], f"{random.getrandbits(256):064x}")) for n in range(calls)]


def begin(conn: psycopg.Connection[Any]) -> list[UUID]:
    """Begin the runs, one of each of as many sources of one user; return them."""
    user = uuid4()
    conn.execute("select public.set_plan(%s, 'enterprise')", (user,))
    rows = conn.execute(
        "with source as (insert into public.sources (user_id, content_hash, byte_size, storage_url)"
        " select %s, gen_random_uuid()::text, 1, 'file:///x' from generate_series(1, %s) returning id)"
        " insert into public.interpretation_runs (user_id, source_id, status, timeout_at, heartbeat_timeout)"
        " select %s, id, 'running', now() + interval '1 day', '1 hour' from source returning id",
        (user, RUNS, user),
    ).fetchall()
    return [row[0] for row in rows]


def heartbeat(conn: psycopg.Connection[Any], calls: int) -> tuple[list[float], list[float]]:
    """Return what heartbeats and bare updates took."""
    runs = begin(conn)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(calls):
        pair = [(HEARTBEAT, ours), (UPDATE, bare)]
        for turn, (statement, times) in enumerate(pair if random.random() < 0.5 else pair[::-1]):
            times.append(timed(conn, statement, (runs[(2 * number + turn) % RUNS],)))
    return ours, bare


def measure(url: str, repeats: int, calls: int) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        heartbeat(conn, RUNS)  # warm
        for repeat in range(1, repeats + 1):
            tell(f"reserve_upload {repeat}           {figures(reserve(conn, calls))}")
            ours, bare = heartbeat(conn, calls)
            tell(f"heartbeat_interpretation {repeat} {figures(ours)}")
            ratio = statistics.median(ours) / statistics.median(bare)
            tell(f"bare UPDATE {repeat}              {figures(bare)}   ratio p50 {ratio:.3f}")


def figures(values_ms: list[float]) -> str:
    cuts = statistics.quantiles(values_ms, n=20)
    return f"p50 {cuts[9]:.3f} p95 {cuts[18]:.3f} min {min(values_ms):.3f} max {max(values_ms):.3f} ms"


def tell(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # a benchmark's output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reactor-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        with EmbeddedPostgres(home / "postgres") as server:
            migrate(server.url)
            measure(server.url, arguments.repeats, arguments.calls)


if __name__ == "__main__":
    main()
