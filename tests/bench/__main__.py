"""Measure the reactor, its floors and its peers on a separate PostgreSQL server with default durability.

    python -m tests.bench [--case NAME]... [--repeats 3] [--quick] [--json FILE] [--list]

A floor does the same work without the reactor, for example with the same SQL on a plain connection. A peer is another
job queue on PostgreSQL. A ratio compares two variants within one repeat; a goal limits the median of all repeats.
Compare figures only within one run.

Peers are measured if they are installed: pip install 'pgreactor[bench]'. npm installs the peer graphile-worker into a
temporary folder if Node is installed. --quick measures less, only to check that the benchmark works.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from loguru import logger

from .cases import CASES, WITH_PEERS
from .peers import GRAPHILE
from .report import Report
from .server import bench_server, machine


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--case", action="append", choices=sorted(CASES), metavar="NAME", help="repeatable; default: all cases"
    )
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each variant")
    parser.add_argument("--quick", action="store_true", help="measure less, only to check that the benchmark works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--list", action="store_true", help="list the cases and exit")
    arguments = parser.parse_args()
    if arguments.list:
        for name, case in CASES.items():
            _say(f"{name:12} {(case.__doc__ or '').splitlines()[0]}")
        return 0
    logger.remove()
    for name in [name for name in os.environ if name.startswith(("OTEL_", "REACTOR_"))]:
        del os.environ[name]
    report = Report()
    began = time.monotonic()
    with bench_server(quick=arguments.quick) as bench:
        about = machine(bench)
        cases = arguments.case or list(CASES)
        if not WITH_PEERS.isdisjoint(cases):
            GRAPHILE.install(bench.home / "node")
        for key, words in about.items():
            _say(f"{key:10} {words}")
        for name in cases:
            case_began, load = time.monotonic(), os.getloadavg()[0]
            base = CASES[name](bench, report, 1 if arguments.quick else arguments.repeats)
            took_s = time.monotonic() - case_began
            _say(f"\n{name} ({took_s:.0f} s; load {load:.1f} before, {os.getloadavg()[0]:.1f} after)")
            _say(report.table(name, base))
    if arguments.json is not None:
        report.write(arguments.json, about)
    missed = sum(not goal.holds for goal in report.goals)
    _say(f"\n{len(report.goals) - missed} of {len(report.goals)} goals hold; {time.monotonic() - began:.0f} s in all")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # a benchmark's output


if __name__ == "__main__":
    sys.exit(main())
