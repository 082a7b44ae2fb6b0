"""Run pgbench at several databases in alternating time slices, to measure small differences on a busy machine.

The speed of a shared machine can change by 10 % from one second to the next; the difference to measure is 5 %. So the
pgbench processes run in turn, in slices of 0.1 s and in random order. SIGSTOP stops a process
between its slices. A slice ends when the server has finished the statements of that slice. The rate of a pgbench
process is its number of transactions divided by the total length of its slices.
"""

import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from reactor.embedded.binaries import account_for, choose_binaries

from .server import BenchServer

_SLICE_S = 0.1
_POLL_S = 0.001
_FOREVER_S = 86_400
_GIVE_UP_S = 60.0

_SESSIONS: LiteralString = "from pg_stat_activity where datname = %s and application_name = 'pgbench'"


def run_alternately(
    bench: BenchServer, script: Path, clients: int, urls: Mapping[str, str], each_s: float
) -> dict[str, float]:
    """Run the script with `clients` clients at each database, for about `each_s` seconds per database.

    Returns the transactions per second for each name in `urls`. Raises RuntimeError if a pgbench process exits early or
    fails, or if its clients don't connect or don't finish their statements within 60 s.
    """
    with bench.admin() as admin, ExitStack() as stack:
        all_clients = {
            name: stack.enter_context(_clients(bench, admin, script, clients, url)) for name, url in urls.items()
        }
        for _ in range(max(1, round(each_s / _SLICE_S))):
            for client_group in random.sample([*all_clients.values()], len(all_clients)):
                client_group.run_slice()
        return {name: client_group.per_s() for name, client_group in all_clients.items()}


@contextmanager
def _clients(
    bench: BenchServer, admin: psycopg.Connection, script: Path, clients: int, url: str
) -> Iterator["_Clients"]:
    """Start a pgbench process and yield it; kill the process at the end of the block."""
    major = int((bench.server.data_dir / "PG_VERSION").read_text())
    program = choose_binaries(major, account_for(bench.server.data_dir)) / "pgbench"
    words = ["-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(_FOREVER_S), "-f", str(script), url]
    with Popen([program, *words], stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            client_group = _Clients(process, admin, str(conninfo_to_dict(url)["dbname"]))
            client_group.start(clients)
            yield client_group
        finally:
            process.kill()


class _Clients:
    """One pgbench process and the total time of its slices."""

    def __init__(self, process: Popen[str], admin: psycopg.Connection, database: str) -> None:
        self._process = process
        self._admin = admin
        self._database = database
        self._running_s = 0.0

    def start(self, clients: int) -> None:
        self._wait_until(lambda: self._count("") == clients)
        self.run_slice()

    def run_slice(self) -> None:
        began = time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        time.sleep(_SLICE_S)
        self._process.send_signal(signal.SIGSTOP)
        self._wait_until(lambda: self._count(" and state <> 'idle'") == 0)
        self._running_s += time.perf_counter() - began

    def per_s(self) -> float:
        """End pgbench with SIGALRM, the signal of its own timer. Return its transactions per second of slice time."""
        self._process.send_signal(signal.SIGALRM)
        self._process.send_signal(signal.SIGCONT)
        output, errors = self._process.communicate(timeout=_GIVE_UP_S)
        count = re.search(r"^number of transactions actually processed: (\d+)", output, re.MULTILINE)
        if self._process.returncode != 0 or count is None:
            raise RuntimeError(f"pgbench: {errors or output}")
        return int(count[1]) / self._running_s

    def _count(self, more: LiteralString) -> int:
        row = self._admin.execute("select count(*) " + _SESSIONS + more, (self._database,)).fetchone()
        assert row is not None
        return int(row[0])

    def _wait_until(self, holds: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + _GIVE_UP_S
        while not holds():
            if self._process.poll() is not None:
                raise RuntimeError(f"pgbench has ended: {self._process.communicate()[1].strip()}")
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"the clients of pgbench at {self._database} didn't connect or finish in time")
            time.sleep(_POLL_S)
