"""Start: from before a reactor's process is made until it is ready, and the memory it has taken by then."""

from .report import Report
from .stage import Stage, queue
from .worker import Worker

_CASE = "start"


def start(stage: Stage, report: Report, repeats: int) -> str | None:
    """Time to ready and memory with 0, 100 000 and 1 000 000 rows waiting for later, within the horizon."""
    backlogs = (0, 100_000) if stage.quick else (0, 100_000, 1_000_000)
    for waiting in backlogs[1:]:
        stage.make_template(f"waiting_{waiting}", lambda url, count=waiting: queue(url, count, None, due_in="14 min"))  # type: ignore[misc]
    for _ in range(repeats):
        for waiting in backlogs:
            with stage.database(f"waiting_{waiting}" if waiting else "migrated") as url, stage.spool() as spool:
                worker = Worker(url, spool)
                ready_s = worker.until_ready()
                report.add(_CASE, f"{waiting:,} waiting", ready_s=ready_s, mib=worker.peak_bytes() / (1 << 20))
                worker.end()
    most = f"{backlogs[-1]:,} waiting"
    report.goal(_CASE, f"ready with {most}, s", report.median(_CASE, "ready_s", most), at_most=5)
    report.goal(_CASE, f"memory with {most}, MB", report.median(_CASE, "mib", most) * 1.048576, at_most=200)
    return "0 waiting"
