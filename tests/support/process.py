"""The reactor as its users meet it: a process with a command line, an environment, and an exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.app import App

_LONGEST_S = 50.0
_LOOK_EVERY_S = 0.02


def environment(**settings: str) -> dict[str, str]:
    """Return this process's variables without anything that could configure a reactor, and with these settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REACTOR_", "PG", "OTEL_", "AWS_")) and name != "DATABASE_URL"
    }
    return kept | {f"REACTOR_{name}": value for name, value in settings.items()}


def settings_of(app: App, **settings: str) -> dict[str, str]:
    """Return the environment of a reactor that works for this app."""
    return environment(
        **{
            "DATABASE_URL": app.url,
            "STORE_URL": app.store.as_uri(),
            "SPOOL_DIR": str(app.spool),
            "HTTP_PORT": "0",
            "RETRY_BASE": "0.1s",
            "LEASE": "2s",
        }
        | settings
    )


def reactor(
    *arguments: str, env: dict[str, str], cwd: Path | None = None, within_s: float = _LONGEST_S
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end. A traceback is never an answer."""
    command = [sys.executable, "-m", "reactor", *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=within_s, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def fetch(url: str) -> tuple[int, str]:
    """Return status and text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Running:
    """`reactor run`, while it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = ""
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._grown:
                self._lines.append(line)
                self._grown.notify_all()

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for_line(self, words: str) -> str:
        """Return the first line of the log with these words in it, when it comes."""

        def found() -> list[str]:
            return [line for line in self._lines if words in line]

        with self._grown:
            assert self._grown.wait_for(found, _LONGEST_S), f"no '{words}' in the log:\n{self.log}"
            return found()[0]

    def wait_until_ready(self) -> None:
        """Wait until it says where it listens, and /readyz says that it is ready."""
        line = self.wait_for_line("/api/status")
        self.url = line[line.index("http://") : line.index("/api/status")]
        give_up = time.monotonic() + _LONGEST_S
        while self.get("/readyz")[0] != 200:
            assert time.monotonic() < give_up, self.log
            time.sleep(_LOOK_EVERY_S)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of an answer."""
        return fetch(self.url + path)

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path)[1])

    def join(self) -> None:
        """Wait until all that it said was read, once it has ended."""
        self._reader.join(_LONGEST_S)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def resources(self) -> tuple[int, float]:
        """Return its open descriptors, and its resident memory in MB."""
        proc = Path(f"/proc/{self.process.pid}")
        [rss] = [line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS")]
        return len(list((proc / "fd").iterdir())), int(rss.split()[1]) / 1024

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let it stand still (SIGSTOP) within the block."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_LONGEST_S)

    def ended(self) -> int:
        """Wait for its end and return its exit code."""
        code = self.process.wait(_LONGEST_S)
        self._reader.join(_LONGEST_S)
        assert "Traceback" not in self.log, self.log
        return code


REACTOR_RUN = (sys.executable, "-m", "reactor", "run")


def start(env: dict[str, str], *, cwd: Path, command: Sequence[str | Path] = REACTOR_RUN) -> Running:
    """Start a reactor; whoever starts one sees to its end."""
    return Running(subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True))


@contextmanager
def running(env: dict[str, str], *, cwd: Path, command: Sequence[str | Path] = REACTOR_RUN) -> Iterator[Running]:
    """Start `reactor run`, or what is told; whatever is left of it on leaving is killed."""
    run = start(env, cwd=cwd, command=command)
    with run.process:
        try:
            yield run
        finally:
            run.process.kill()
