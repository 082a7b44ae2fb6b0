"""Measure the time from the creation of a reactor process until the reactor is ready, and the peak memory."""

from .reactor_process import ReactorProcess
from .report import Report
from .server import BenchServer, queue

_CASE = "start"


def start(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Measure start-up time and memory with 0, 100 000 and 1 000 000 rows, due later but within the horizon."""
    backlogs = (0, 100_000) if bench.quick else (0, 100_000, 1_000_000)
    for waiting in backlogs[1:]:
        bench.make_template(f"waiting_{waiting}", lambda url, count=waiting: queue(url, count, None, due_in="14 min"))  # type: ignore[misc]
    for _ in range(repeats):
        for waiting in backlogs:
            with bench.database(f"waiting_{waiting}" if waiting else "migrated") as url, bench.spool() as spool:
                worker = ReactorProcess(url, spool)
                ready_s = worker.until_ready()
                report.add(_CASE, f"{waiting:,} waiting", ready_s=ready_s, mib=worker.peak_bytes() / (1 << 20))
                worker.end()
    most = f"{backlogs[-1]:,} waiting"
    report.goal(_CASE, f"ready with {most}, s", report.median(_CASE, "ready_s", most), at_most=5)
    report.goal(_CASE, f"memory with {most}, MB", report.median(_CASE, "mib", most) * 1.048576, at_most=200)
    return "0 waiting"
