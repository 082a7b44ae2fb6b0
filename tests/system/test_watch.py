"""`reactor status --watch` runs until a signal ends it, on a terminal and in a pipe, also during database outages."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from support.app import App
from support.process import running, settings_of

from reactor.cli.live_view import LiveView
from reactor.cli.status_table import status_table
from reactor.cli.watch import Reading, console, follow
from reactor.core.errors import DatabaseUnavailable
from reactor.core.settings import Settings
from reactor.postgres.admin import inspecting

_PATIENCE_S = 30.0
STATUS: dict[str, Any] = {
    "uploads": {
        "failed": 0,
        "due": 0,
        "uploading": 0,
        "dead": 0,
        "cancelled": 0,
        "oldest_due_age_s": 0,
        "leases_expired": 0,
    },
    "runs": {"running": 0, "stale": 0},
    "reactors": [],
    "quota_rejections": [],
    "storage_usage": [],
    "notification_queue_usage": 0,
}
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class OutputReader:
    """Reads a stream in a thread, and waits for text in it."""

    def __init__(self, read_chunk: Callable[[], bytes]) -> None:
        self.text = ""
        self._text_changed = threading.Condition()
        self._read_chunk = read_chunk
        self._thread = threading.Thread(target=self._read_all, daemon=True)
        self._thread.start()

    def _read_all(self) -> None:
        while chunk := self._read_chunk():
            with self._text_changed:
                self.text += chunk.decode()
                self._text_changed.notify_all()

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Wait until the stream contains `text` at least `times` times."""
        with self._text_changed:
            found = self._text_changed.wait_for(lambda: self.text.count(text) >= times, _PATIENCE_S)
        assert found, f"no {text!r} in:\n{self.text}"

    def end(self) -> str:
        """Wait for the end of the stream; return all its text."""
        self._thread.join(_PATIENCE_S)
        return self.text


class Watch:
    """A `reactor status --watch` process and its output."""

    def __init__(self, process: subprocess.Popen[bytes], out: OutputReader, err: OutputReader) -> None:
        self.process = process
        self.out = out
        self.err = err

    def end_with(self, signal_: signal.Signals) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        self.process.send_signal(signal_)
        code = self.process.wait(_PATIENCE_S)
        assert "Traceback" not in self.out.end() + self.err.end()
        return code


def chunks(stream: IO[bytes] | None) -> Callable[[], bytes]:
    assert stream is not None
    return lambda: os.read(stream.fileno(), 65_536)


@contextmanager
def watching(app: App, *options: str, **settings: str) -> Iterator[Watch]:
    """Start a watch whose output goes to pipes."""
    command = [sys.executable, "-m", "reactor", "status", "--watch", *options]
    env = settings_of(app, **settings)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield Watch(process, OutputReader(chunks(process.stdout)), OutputReader(chunks(process.stderr)))
        finally:
            process.kill()


@contextmanager
def watching_on_terminal(app: App) -> Iterator[Watch]:
    """Start a watch on a terminal of 100 columns and 40 lines."""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(controller, (40, 100))

    def read() -> bytes:
        try:
            return os.read(controller, 65_536)
        except OSError:  # EIO: the process has closed the terminal
            return b""

    command = [sys.executable, "-m", "reactor", "status", "--watch"]
    env = {**settings_of(app), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, env=env, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    output = OutputReader(read)
    try:
        yield Watch(process, output, output)
    finally:
        process.kill()
        process.wait()
        output.end()
        os.close(controller)


@contextmanager
def outage(app: App, server_url: str) -> Iterator[None]:
    """Close the watch's connections to the database, and refuse new connections during the block."""
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("alter database {} allow_connections false").format(name))
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor-cli'")
        try:
            yield
        finally:
            conn.execute(sql.SQL("alter database {} allow_connections true").format(name))


def test_in_a_pipe_it_prints_tables_until_ctrl_c(app: App) -> None:
    with watching(app) as watch:
        watch.out.wait_for("uploads waiting     0")
        app.queue_uploads(3, next_retry_at="2100-01-01")
        watch.out.wait_for("uploads waiting     3")
        assert watch.end_with(signal.SIGINT) == 0
    assert "\x1b" not in watch.out.text
    assert watch.err.text == ""


def test_it_shows_what_the_live_page_shows_including_a_reactors_own_figures(app: App) -> None:
    app.queue_uploads(2, next_retry_at="2100-01-01")
    with running(settings_of(app, HTTP_TOKEN="a-token-of-the-watch"), cwd=app.spool) as run:
        run.wait_until_ready()
        [dead] = app.queue_uploads(spooled=False, error_message="\x1b[2J")
        stuck = app.begin_run(timeout_at="2100-01-01", heartbeat_at="2100-01-01")
        port = str(urlsplit(run.url).port)
        with watching(app, HTTP_PORT=port, HTTP_TOKEN="a-token-of-the-watch") as watch:
            watch.out.wait_for("1 upload has been dead for ")
            for text in (
                f"{dead.id} SPOOL_FILE_MISSING: ",
                "runs running        1",
                "  more left         1",
                "reaction            p50 ",
                "timer wheel         ",
                "nothing missed",
                "listening, seen ",
            ):
                watch.out.wait_for(text)
            assert watch.end_with(signal.SIGINT) == 0
        assert app.run(stuck)["status"] == "running"
    assert "\x1b" not in watch.out.text


def test_without_a_reactor_it_says_so(app: App) -> None:
    with watching(app) as watch:
        watch.out.wait_for("One thing is wrong.")
        watch.out.wait_for("No reactor is running.")
        assert watch.end_with(signal.SIGINT) == 0
    assert "timer wheel" not in watch.out.text


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"<html>", b'{"database": {"reactors": []}}', b"\xff"])
def test_another_program_on_that_port_is_not_taken_for_a_reactor(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            conn, _ = server.accept()
            with conn:
                conn.recv(65_536)
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

        served = pool.submit(serve)
        settings = Settings(store_url="s3://", spools={"default": Path("/spool")}, http_port=server.getsockname()[1])
        assert LiveView(settings).live_reactor({"reactors": [{"id": "1"}]}) is None
        served.result()


def test_with_json_each_line_is_an_object(app: App) -> None:
    with watching(app, "--json") as watch:
        watch.out.wait_for("\n", times=2)
        assert watch.end_with(signal.SIGTERM) == 0
    for line in watch.out.text.splitlines():
        assert set(json.loads(line)) >= {"uploads", "runs", "reactors", "now"}


@pytest.mark.parametrize("options", ["", "--json"])
def test_it_ends_when_the_reader_of_its_pipe_is_gone(app: App, options: str) -> None:
    command = f"{sys.executable} -m reactor status --watch {options} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        env=settings_of(app),
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_an_outage_is_survived(app: App, server_url: str) -> None:
    with watching(app, "--json") as watch:
        watch.out.wait_for("\n")
        with outage(app, server_url):
            watch.err.wait_for("trying again")
            before = watch.out.text.count("\n")
        watch.err.wait_for("answers again")
        watch.out.wait_for("\n", times=before + 1)
        assert watch.end_with(signal.SIGINT) == 0
    lines = watch.err.text.splitlines()
    assert lines[0].startswith("reactor: DATABASE_UNAVAILABLE: ")
    assert lines[1:] == ["reactor: the database answers again"]


@pytest.mark.usefixtures("_restored_sigterm_handler")
def test_an_outage_is_reported_once_whatever_its_length(capsys: pytest.CaptureFixture[str]) -> None:
    def outages() -> Iterator[Reading]:
        error = DatabaseUnavailable("down")
        readings: list[Reading] = [STATUS, error, error, error, STATUS, STATUS, error, STATUS]
        yield from readings
        raise KeyboardInterrupt

    follow(outages(), None)
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 4
    messages = ["reactor: DATABASE_UNAVAILABLE: down; trying again", "reactor: the database answers again"]
    assert written.err.splitlines() == messages * 2


@pytest.fixture
def _restored_sigterm_handler() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_a_database_that_never_answered_is_an_error(app: App, server_url: str) -> None:
    with outage(app, server_url), watching(app) as watch:
        assert watch.process.wait(_PATIENCE_S) == 1
        assert watch.err.end().startswith("reactor: DATABASE_UNAVAILABLE: ")
        assert watch.out.end() == ""


def test_on_a_terminal_it_redraws_reports_an_outage_and_restores_the_cursor(app: App, server_url: str) -> None:
    with watching_on_terminal(app) as watch:
        watch.out.wait_for("uploads waiting")
        with outage(app, server_url):
            watch.out.wait_for("The database does not answer: ")
            watch.out.wait_for("The figures below are old.")
        app.queue_uploads(7, next_retry_at="2100-01-01")
        watch.out.wait_for("7  ")
        assert watch.end_with(signal.SIGINT) == 0
    assert watch.out.text.rfind(SHOW_CURSOR) > watch.out.text.rfind(HIDE_CURSOR) > -1


# the table of `reactor status`


def rendered(status: dict[str, Any]) -> str:
    out = console()
    with out.capture() as captured:
        out.print(status_table(status))
    return captured.get()


def test_refusals_and_usage_are_shown_by_plan(app: App) -> None:
    app.queue_uploads(content=b"x" * 1000)
    user = uuid4()
    app.all("select public.set_plan(%s, 'pro')", user)
    for size in (1 << 20, 1 << 40, 1 << 40):
        app.all("select public.reserve_upload(%s, %s, %s)", user, sha256(b"%d" % size).hexdigest(), size)
    app.conn.execute("update public.sources set storage_status = 'uploaded' where user_id = %s", (user,))

    with inspecting(app.url) as inspector:
        lines = [" ".join(line.split()) for line in rendered(inspector.status(60)).splitlines()]

    assert "storage used 1,048,576 bytes" in lines
    assert "free 0 bytes, 1 user" in lines
    assert "pro 1,048,576 bytes, 1 user" in lines
    assert "refused by quota 2 in the last hour" in lines
    assert "storage, plan pro 2" in lines


def test_silent_reactors_are_counted_apart_and_names_differ(app: App) -> None:
    app.conn.execute(
        "insert into reactor.instance (id, host, pid, port, version, mode, started_at, seen_at) values"
        " (%s, 'h', null, null, '1', 'polling', now() - interval '2 h', now() - interval '65 s'),"
        " (%s, 'h', null, null, '1', 'listening', now() - interval '1 h', now()),"
        " (%s, 'h', 7, 8321, '1', 'listening', now(), now())",
        (UUID(int=1 << 96), UUID(int=2 << 96), UUID(int=3 << 96)),
    )
    with inspecting(app.url) as inspector:
        lines = [" ".join(line.split()) for line in rendered(inspector.status(60)).splitlines()]
    assert "reactors 2 running, 1 silent" in lines
    assert "h (00000001): silent for 1m5s, version 1" in lines
    assert "h (00000002): listening, seen 0s ago, version 1" in lines
    assert "h:8321 (process 7): listening, seen 0s ago, version 1" in lines
