"""Measure what an idle reactor costs in a minute, including its canary notifications."""

import asyncio
import time
from contextlib import ExitStack

import psycopg

from .reactor_process import ReactorProcess
from .report import Report
from .server import BenchServer

_SETTLE_S = 15.0
"""An idle session reports its statistics within 10 s, so the statistics of the start-up arrive before we measure."""


def idle(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Measure transactions and CPU seconds per minute of an idle reactor; all repeats run concurrently for a minute."""
    case, minute_s = "idle", 20.0 if bench.quick else 60.0
    with ExitStack() as stack:
        bare = stack.enter_context(bench.database())
        urls = [stack.enter_context(bench.database()) for _ in range(repeats)]
        workers = [ReactorProcess(url, stack.enter_context(bench.spool())) for url in urls]
        for worker in workers:
            worker.until_ready()
        asyncio.run(asyncio.sleep(_SETTLE_S))
        before = [_transactions(bench, url) for url in (bare, *urls)]
        cpu = [worker.cpu_s() for worker in workers]
        began = time.monotonic()
        asyncio.run(asyncio.sleep(minute_s))
        after = [_transactions(bench, url) for url in (bare, *urls)]
        minutes = (time.monotonic() - began) / 60
        report.add(case, "no reactor", transactions=(after[0] - before[0]) / minutes)
        for number, worker in enumerate(workers):
            used = worker.cpu_s() - cpu[number]
            count = (after[number + 1] - before[number + 1]) / minutes
            report.add(case, "reactor", transactions=count, cpu_s=used / minutes)
            worker.end()
    report.goal(case, "transactions a minute", report.median(case, "transactions", "reactor"), at_most=12)
    return None


def _transactions(bench: BenchServer, url: str) -> int:
    """Return the number of transactions of a database, queried from another database."""
    with bench.admin() as conn:
        row = conn.execute(
            "select xact_commit + xact_rollback from pg_stat_database where datname = %s",
            (psycopg.conninfo.conninfo_to_dict(url)["dbname"],),
        ).fetchone()
    assert row is not None
    count: int = row[0]
    return count
