"""A reactor in a separate process.

The process prints a line of JSON when the reactor is ready and another line when the reactor has ended. The reactor
ends when the standard input of the process is closed.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from reactor.app import Reactor
from reactor.cli.process import tune_garbage_collector
from reactor.core.events import AttemptsSettled, Event
from reactor.postgres.upload_answers import NOTHING_HELD, ClaimedUploads, Held
from reactor.postgres.upload_queue import UploadQueue

from .own_process import print_figures
from .server import NoStore, settings


class ReactorProcess:
    """Controls the reactor's process."""

    def __init__(self, url: str, spool: Path) -> None:
        self.started_at = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.reactor_process", url, str(spool)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def until_ready(self) -> float:
        """Wait until the reactor is ready; return the seconds from the creation of the process to that time."""
        ready_at: float = self._line()["ready_at"]
        return ready_at - self.started_at

    def end(self) -> dict[str, Any]:
        """End the process; return the numbers of claims, empty claims and settled uploads."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        counted = self._line()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return counted

    def peak_bytes(self) -> int:
        """Return the peak resident memory of the process in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used."""
        times = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line: dict[str, Any] = json.loads(self._process.stdout.readline())
        return line


async def _run(url: str, spool: Path) -> None:
    counted = {"claims": 0, "empty": 0, "settled": 0}
    claim = UploadQueue.claim

    async def counting(self: UploadQueue, rows: Sequence[int], held: Held = NOTHING_HELD) -> ClaimedUploads:
        claimed = await claim(self, rows, held)
        counted["claims"] += 1
        counted["empty"] += not claimed.uploads
        return claimed

    def on_event(event: Event) -> None:
        counted["settled"] += len(event.attempts) if type(event) is AttemptsSettled else 0

    UploadQueue.claim = counting  # type: ignore[method-assign]
    reactor = Reactor(settings(url, spool), store=NoStore(), listener=on_event)

    async def report_ready() -> None:
        await reactor.wait_ready()
        print_figures({"ready_at": time.monotonic()})

    tune_garbage_collector()  # as `reactor run` does
    asyncio.get_running_loop().add_reader(sys.stdin, reactor.stop)  # a closed stdin is readable
    reporting = asyncio.create_task(report_ready())
    await reactor.run()
    reporting.cancel()
    print_figures(counted)


if __name__ == "__main__":
    logger.remove()
    asyncio.run(_run(sys.argv[1], Path(sys.argv[2])))
