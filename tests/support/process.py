"""The reactor as a process: command line, environment, log and exit code."""

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

_TIMEOUT_S = 50.0
_POLL_S = 0.02


def environment(**settings: str) -> dict[str, str]:
    """Return this process's environment, with these settings instead of all variables that configure a reactor."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REACTOR_", "PG", "OTEL_", "AWS_")) and name != "DATABASE_URL"
    }
    return kept | {f"REACTOR_{name}": value for name, value in settings.items()}


def settings_of(app: App, **settings: str) -> dict[str, str]:
    """Return the environment of a reactor that uses this app's database, store and spool."""
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
    *arguments: str, env: dict[str, str], cwd: Path | None = None, within_s: float = _TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Fails if it printed a traceback."""
    command = [sys.executable, "-m", "reactor", *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=within_s, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program with pipes. Python's warning about forks of processes with threads is left out.

    Ctrl-C raises KeyboardInterrupt in it, also if this process runs in the background, where shells ignore SIGINT.
    """
    script = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{script}"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def fetch(url: str) -> tuple[int, str]:
    """Return the HTTP status and the body of a GET request."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # a local server
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Running:
    """A `reactor run` process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = ""
        self._lines: list[str] = []
        self._line_read = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._line_read:
                self._lines.append(line)
                self._line_read.notify_all()

    @property
    def log(self) -> str:
        """All log lines so far."""
        return "".join(self._lines)

    def wait_for_line(self, text: str) -> str:
        """Wait for a log line that contains `text`, and return the first one."""

        def found() -> list[str]:
            return [line for line in self._lines if text in line]

        with self._line_read:
            assert self._line_read.wait_for(found, _TIMEOUT_S), f"no '{text}' in the log:\n{self.log}"
            return found()[0]

    def wait_until_ready(self) -> None:
        """Wait until the log contains the HTTP address and /readyz returns 200."""
        line = self.wait_for_line("/api/status")
        self.url = line[line.index("http://") : line.index("/api/status")]
        deadline = time.monotonic() + _TIMEOUT_S
        while self.get("/readyz")[0] != 200:
            assert time.monotonic() < deadline, self.log
            time.sleep(_POLL_S)

    def get(self, path: str) -> tuple[int, str]:
        """Return the HTTP status and the body of a GET request."""
        return fetch(self.url + path)

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path)[1])

    def join(self) -> None:
        """Wait until the log of an ended process is read completely."""
        self._reader.join(_TIMEOUT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def resources(self) -> tuple[int, float]:
        """Return the number of open descriptors and the resident memory in MB."""
        proc = Path(f"/proc/{self.process.pid}")
        [rss] = [line for line in (proc / "status").read_text().splitlines() if line.startswith("VmRSS")]
        return len(list((proc / "fd").iterdir())), int(rss.split()[1]) / 1024

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process with SIGSTOP during the block."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(_TIMEOUT_S)

    def ended(self) -> int:
        """Wait for the process to end; return its exit code. Fails if the log has a traceback."""
        code = self.process.wait(_TIMEOUT_S)
        self._reader.join(_TIMEOUT_S)
        assert "Traceback" not in self.log, self.log
        return code


REACTOR_RUN = (sys.executable, "-m", "reactor", "run")


def start(env: dict[str, str], *, cwd: Path, command: Sequence[str | Path] = REACTOR_RUN) -> Running:
    """Start a reactor. The caller must end it."""
    return Running(subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, text=True))


@contextmanager
def running(env: dict[str, str], *, cwd: Path, command: Sequence[str | Path] = REACTOR_RUN) -> Iterator[Running]:
    """Start `reactor run`, or another command, and kill the process on leaving the block."""
    run = start(env, cwd=cwd, command=command)
    with run.process:
        try:
            yield run
        finally:
            run.process.kill()
