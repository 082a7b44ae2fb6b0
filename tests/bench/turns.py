"""pgbench's clients at several databases, by turns: what each lot does a second is told of its own turns alone.

A machine that others share is a tenth slower in one second than in the next, and what is to be seen is a twentieth.
So turns are short and in random order, and clients stay connected: those whose turn it isn't are stopped, and a turn is
over when the server has done what was sent in it.
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

from .stage import Stage

_TURN_S = 0.1
_POLL_S = 0.001
_FOREVER_S = 86_400
_GIVE_UP_S = 60.0

_SESSIONS: LiteralString = "from pg_stat_activity where datname = %s and application_name = 'pgbench'"


def by_turns(stage: Stage, script: Path, clients: int, urls: Mapping[str, str], each_s: float) -> dict[str, float]:
    """Run the script with so many clients at each database, for some `each_s` of its own; return transactions a second.

    RuntimeError when pgbench ended by itself or doesn't answer, or the script failed.
    """
    with stage.admin() as admin, ExitStack() as stack:
        lots = {name: stack.enter_context(_clients(stage, admin, script, clients, url)) for name, url in urls.items()}
        for _ in range(max(1, round(each_s / _TURN_S))):
            for lot in random.sample([*lots.values()], len(lots)):
                lot.take_turn()
        return {name: lot.per_s() for name, lot in lots.items()}


@contextmanager
def _clients(stage: Stage, admin: psycopg.Connection, script: Path, clients: int, url: str) -> Iterator["_Clients"]:
    """Connect them, and stop them."""
    major = int((stage.server.data_dir / "PG_VERSION").read_text())
    program = choose_binaries(major, account_for(stage.server.data_dir)) / "pgbench"
    words = ["-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(_FOREVER_S), "-f", str(script), url]
    with Popen([program, *words], stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            lot = _Clients(process, admin, str(conninfo_to_dict(url)["dbname"]))
            lot.start(clients)
            yield lot
        finally:
            process.kill()


class _Clients:
    """One pgbench: its clients, and for how long it was their turn."""

    def __init__(self, process: Popen[str], admin: psycopg.Connection, database: str) -> None:
        self._process = process
        self._admin = admin
        self._database = database
        self._own_s = 0.0

    def start(self, clients: int) -> None:
        self._wait_until(lambda: self._count("") == clients)
        self.take_turn()

    def take_turn(self) -> None:
        began = time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        time.sleep(_TURN_S)
        self._process.send_signal(signal.SIGSTOP)
        self._wait_until(lambda: self._count(" and state <> 'idle'") == 0)
        self._own_s += time.perf_counter() - began

    def per_s(self) -> float:
        """End pgbench as its own timer would, and return its transactions a second."""
        self._process.send_signal(signal.SIGALRM)
        self._process.send_signal(signal.SIGCONT)
        output, errors = self._process.communicate(timeout=_GIVE_UP_S)
        count = re.search(r"^number of transactions actually processed: (\d+)", output, re.MULTILINE)
        if self._process.returncode != 0 or count is None:
            raise RuntimeError(f"pgbench: {errors or output}")
        return int(count[1]) / self._own_s

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
                raise RuntimeError(f"pgbench's clients at {self._database} don't answer")
            time.sleep(_POLL_S)
