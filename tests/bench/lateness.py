"""Measure the time from a retry's due time to the start of its attempt, and from a run's deadline to its failure.

Floor: sleep until the row is due, then claim it with the same SQL on a plain connection.
"""

import asyncio
import random
import time
from uuid import uuid4

from reactor.core.events import AttemptsStarted, Event, RunExpired

from .peers import PEERS
from .raw import raw
from .report import Report, percentiles_ms
from .running_reactor import claim_one, running_reactor
from .server import EMPTY_SHA256, BenchServer

_CASE = "lateness"
_WITHIN_S = 5.0
_DUE_AFTER_S = 1.0


def lateness(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Measure 1 000 retries due at random within 5 s, 1 000 runs' deadlines, and the floor."""
    count = 200 if bench.quick else 1_000
    for repeat in range(repeats):
        chance = random.Random(repeat)
        delays_s = [_WITHIN_S * chance.random() for _ in range(count)]
        for name, measure in (("floor", _floor), ("reactor", _reactor), ("runs' deadlines", _deadlines)):
            with bench.database() as url:
                late = asyncio.run(measure(bench, url, delays_s))
            report.add(_CASE, name, **percentiles_ms(late))
        for peer in PEERS:
            if peer.reason_missing() is None:
                with bench.database("template1") as url:
                    late = asyncio.run(peer.lateness(url, delays_s))
                report.add(_CASE, peer.name, **percentiles_ms(late))
    for peer in PEERS:
        if (reason_missing := peer.reason_missing()) is not None:
            report.note(_CASE, f"{peer.name} skipped: {reason_missing}")
    for metric in ("p50_ms", "p95_ms"):
        report.goal(_CASE, f"{metric[:3]} of floor", report.ratio(_CASE, metric, "reactor", "floor"), at_most=1.3)
    report.goal(_CASE, "ms of the earliest", report.median(_CASE, "min_ms", "reactor"), at_least=0)
    return "floor"


async def _fail_later(url: str, spool: str | None, delays_s: list[float]) -> dict[str, float]:
    """Queue an upload for each delay; return the uploads' monotonic due times by id."""
    conn = await raw(url)
    since_epoch = time.time() - time.monotonic()  # the server uses the same clock, because it runs on this machine
    due: dict[str, float] = {}
    names = [str(uuid4()) for _ in delays_s]
    if spool is not None:
        for name in names:
            open(f"{spool}/{name}", "x").close()  # noqa: ASYNC230, PTH123
    for first in range(0, len(names), 100):
        rows = await conn.execute(
            "with s as (insert into public.sources (user_id, content_hash, storage_status, byte_size)"
            " select md5((n %% 50)::text)::uuid, md5(name) || md5(name), 'pending', 0"
            "   from unnest(%s::text[]) with ordinality as given (name, n) returning id, user_id, content_hash)"
            " insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size,"
            " temp_file_path, next_retry_at) select s.id, s.user_id, 'bench', name, %s, 0, name,"
            " clock_timestamp() + make_interval(secs => delay_s)"
            "  from unnest(%s::text[], %s::float8[]) as given (name, delay_s)"
            "  join s on s.content_hash = md5(name) || md5(name)"
            " returning id, extract(epoch from next_retry_at)::float8",
            (
                names[first : first + 100],
                EMPTY_SHA256,
                names[first : first + 100],
                [_DUE_AFTER_S + delay_s for delay_s in delays_s[first : first + 100]],
            ),
        )
        due |= {str(row_id): due_at - since_epoch for row_id, due_at in await rows.fetchall()}
    await conn.close()
    return due


async def _floor(bench: BenchServer, url: str, delays_s: list[float]) -> list[float]:
    due = await _fail_later(url, None, delays_s)
    claiming = await raw(url)
    late = []
    for row_id, at in sorted(due.items(), key=lambda item: item[1]):
        await asyncio.sleep(at - time.monotonic())
        await claim_one(claiming, row_id)
        late.append(time.monotonic() - at)
    await claiming.close()
    return late


async def _reactor(bench: BenchServer, url: str, delays_s: list[float]) -> list[float]:
    started: dict[str, float] = {}
    all_started = asyncio.Event()

    def on_event(event: Event) -> None:
        if type(event) is AttemptsStarted:
            for attempt in event.attempts:
                started[str(attempt.upload_id)] = time.monotonic()
            if len(started) == len(delays_s):
                all_started.set()

    async with running_reactor(bench, url, on_event) as spool:
        due = await _fail_later(url, spool, delays_s)
        await all_started.wait()
    return [started[row_id] - at for row_id, at in due.items()]


async def _deadlines(bench: BenchServer, url: str, delays_s: list[float]) -> list[float]:
    late: list[float] = []
    all_failed = asyncio.Event()

    def on_event(event: Event) -> None:
        if type(event) is RunExpired:
            late.append(event.late_s)
            if len(late) == len(delays_s):
                all_failed.set()

    conn = await raw(url)
    async with running_reactor(bench, url, on_event):
        await conn.execute(
            "with s as (insert into public.sources (user_id, content_hash, byte_size)"
            " select gen_random_uuid(), md5(n::text) || md5(n::text), 0 from generate_series(1, %s) as n"
            " returning id, user_id)"
            " insert into public.interpretation_runs (source_id, user_id, status, timeout_at)"
            " select s.id, s.user_id, 'running', clock_timestamp() + make_interval(secs => (%s::float8[])[s.n])"
            " from (select id, user_id, row_number() over () as n from s) as s",
            (len(delays_s), [_DUE_AFTER_S + delay_s for delay_s in delays_s]),
        )
        await all_failed.wait()
    await conn.close()
    return late
