"""Measure how fast several reactor processes drain one queue."""

import time
from contextlib import ExitStack
from pathlib import Path

import psycopg

from .reactor_process import ReactorProcess
from .report import Report
from .server import BenchServer, queue

_POLL_S = 0.02


def scale_out(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Drain one queue with 1, 2 and 4 reactors: uploads per second, uploads per claim, and empty claims."""
    case, uploads = "scale-out", 4_000 if bench.quick else 20_000
    for _ in range(repeats):
        for reactors in (1, 2, 4):
            with ExitStack() as stack:
                url, spool = stack.enter_context(bench.database()), stack.enter_context(bench.spool())
                workers = [ReactorProcess(url, spool) for _ in range(reactors)]
                for worker in workers:
                    worker.until_ready()
                took_s = _drained(url, spool, uploads)
                counted = [worker.end() for worker in workers]
            claims = sum(count["claims"] for count in counted)
            empty = sum(count["empty"] for count in counted)
            assert sum(count["settled"] for count in counted) >= uploads
            report.add(
                case,
                f"{reactors} reactors" if reactors > 1 else "1 reactor",
                per_s=uploads / took_s,
                claims_a_batch=claims / (claims - empty),
                rows_a_claim=uploads / claims,
                empty_per_upload=empty / uploads,
            )
    report.goal(case, "2 reactors of 1", report.ratio(case, "per_s", "2 reactors", "1 reactor"), at_least=1.0)
    report.goal(case, "claims a batch of 2", report.median(case, "claims_a_batch", "2 reactors"), at_most=1.2)
    return "1 reactor"


def _drained(url: str, spool: Path, uploads: int) -> float:
    """Queue a backlog without notifications, notify "rescan", and return the seconds until the queue is empty."""
    queue(url, uploads, spool)
    with psycopg.connect(url, autocommit=True) as conn:
        began = time.monotonic()
        # more than 1 000 hints are sent as one rescan
        conn.execute("select reactor.send_hints('reactor_uploads', array_fill(''::text, array[1001]))")
        while conn.execute("select exists (select from public.upload_queue)").fetchone() == (True,):
            time.sleep(_POLL_S)
        return time.monotonic() - began
