"""`reactor status --watch` goes on until it is told to end, on a terminal and in a pipe, whatever the database does."""

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
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from support.app import App
from support.process import running, settings_of

from reactor.cli.live_view import LiveView
from reactor.cli.status import table
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


class NotificationLog:
    """Reads a stream as it comes, and waits for words in it."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self.text = ""
        self._grown = threading.Condition()
        self._read = read
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while chunk := self._read():
            with self._grown:
                self.text += chunk.decode()
                self._grown.notify_all()

    def wait_for(self, words: str, *, times: int = 1) -> None:
        with self._grown:
            heard = self._grown.wait_for(lambda: self.text.count(words) >= times, _PATIENCE_S)
        assert heard, f"no {words!r} in:\n{self.text}"

    def end(self) -> str:
        self._thread.join(_PATIENCE_S)
        return self.text


class Watch:
    """A watching process, what it writes, and how to end it."""

    def __init__(self, process: subprocess.Popen[bytes], out: NotificationLog, words: NotificationLog) -> None:
        self.process = process
        self.out = out
        self.words = words

    def told(self, signal_: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(signal_)
        code = self.process.wait(_PATIENCE_S)
        assert "Traceback" not in self.out.end() + self.words.end()
        return code


def chunks(stream: IO[bytes] | None) -> Callable[[], bytes]:
    assert stream is not None
    return lambda: os.read(stream.fileno(), 65_536)


@contextmanager
def watching(app: App, *options: str, **settings: str) -> Iterator[Watch]:
    """Watch in a pipe."""
    command = [sys.executable, "-m", "reactor", "status", "--watch", *options]
    env = settings_of(app, **settings)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield Watch(process, NotificationLog(chunks(process.stdout)), NotificationLog(chunks(process.stderr)))
        finally:
            process.kill()


@contextmanager
def watching_on_terminal(app: App) -> Iterator[Watch]:
    """Watch on a terminal of 100 columns and 40 lines, whose Ctrl-C reaches the process as a person's does."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (40, 100))

    def read() -> bytes:
        try:
            return os.read(ours, 65_536)
        except OSError:  # EIO: the other side is closed
            return b""

    command = [sys.executable, "-m", "reactor", "status", "--watch"]
    env = {**settings_of(app), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    terminal = NotificationLog(read)
    try:
        yield Watch(process, terminal, terminal)
    finally:
        process.kill()
        process.wait()
        terminal.end()
        os.close(ours)


@contextmanager
def outage(app: App, server_url: str) -> Iterator[None]:
    """Let the database throw everybody out, and nobody in."""
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("alter database {} allow_connections false").format(name))
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor-cli'")
        try:
            yield
        finally:
            conn.execute(sql.SQL("alter database {} allow_connections true").format(name))


def test_in_a_pipe_tables_follow_each_other_until_ctrl_c(app: App) -> None:
    with watching(app) as watch:
        watch.out.wait_for("uploads waiting     0")
        app.queue_uploads(3, next_retry_at="2100-01-01")
        watch.out.wait_for("uploads waiting     3")
        assert watch.told(signal.SIGINT) == 0
    assert "\x1b" not in watch.out.text
    assert watch.words.text == ""


def test_what_the_page_shows_is_shown_here_and_what_a_reactor_alone_knows_too(app: App) -> None:
    app.queue_uploads(2, next_retry_at="2100-01-01")
    with running(settings_of(app, HTTP_TOKEN="a-token"), cwd=app.spool) as run:
        run.wait_until_ready()
        [dead] = app.queue_uploads(spooled=False, error_message="\x1b[2J")
        stuck = app.begin_run(timeout_at="2100-01-01", heartbeat_at="2100-01-01")
        port = str(urlsplit(run.url).port)
        with watching(app, HTTP_PORT=port, HTTP_TOKEN="a-token") as watch:
            watch.out.wait_for("1 upload has been dead for ")
            for words in (
                f"{dead.id} SPOOL_FILE_MISSING: ",
                "runs running        1",
                "  more left         1",
                "reaction            half within ",
                "timer wheel         ",
                "nothing missed",
                "listening, seen ",
            ):
                watch.out.wait_for(words)
            assert watch.told(signal.SIGINT) == 0
        assert app.run(stuck)["status"] == "running"
    assert "\x1b" not in watch.out.text


def test_without_a_reactor_that_is_said(app: App) -> None:
    with watching(app) as watch:
        watch.out.wait_for("One thing is wrong.")
        watch.out.wait_for("No reactor is running.")
        assert watch.told(signal.SIGINT) == 0
    assert "timer wheel" not in watch.out.text


@pytest.mark.parametrize("answer", [b"[]", b"{}", b"<html>", b'{"database": {"reactors": []}}', b"\xff"])
def test_whatever_else_listens_there_is_not_taken_for_a_reactor(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            conn, _ = server.accept()
            with conn:
                conn.recv(65_536)
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

        served = pool.submit(serve)
        settings = Settings(store_url="s3://", spools={"default": Path("/spool")}, http_port=server.getsockname()[1])
        assert LiveView(settings)._facts({"reactors": [{"id": "1"}]}) is None
        served.result()


def test_as_json_each_line_is_an_object(app: App) -> None:
    with watching(app, "--json") as watch:
        watch.out.wait_for("\n", times=2)
        assert watch.told(signal.SIGTERM) == 0
    for line in watch.out.text.splitlines():
        assert set(json.loads(line)) >= {"uploads", "runs", "reactors", "now"}


@pytest.mark.parametrize("options", ["", "--json"])
def test_a_reader_that_has_had_enough_ends_it(app: App, options: str) -> None:
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
            watch.words.wait_for("trying again")
            before = watch.out.text.count("\n")
        watch.words.wait_for("answers again")
        watch.out.wait_for("\n", times=before + 1)
        assert watch.told(signal.SIGINT) == 0
    lines = watch.words.text.splitlines()
    assert lines[0].startswith("reactor: DATABASE_UNAVAILABLE: ")
    assert lines[1:] == ["reactor: the database answers again"]


@pytest.mark.usefixtures("_own_sigterm")
def test_an_outage_is_said_once_however_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def seen() -> Iterator[Reading]:
        away = DatabaseUnavailable("away")
        readings: list[Reading] = [STATUS, away, away, away, STATUS, STATUS, away, STATUS]
        yield from readings
        raise KeyboardInterrupt

    follow(seen(), None)
    written = capsys.readouterr()
    assert len(written.out.splitlines()) == 4
    said = ["reactor: DATABASE_UNAVAILABLE: away; trying again", "reactor: the database answers again"]
    assert written.err.splitlines() == said * 2


@pytest.fixture
def _own_sigterm() -> Iterator[None]:
    was = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, was)


def test_one_that_never_saw_anything_is_an_error(app: App, server_url: str) -> None:
    with outage(app, server_url), watching(app) as watch:
        assert watch.process.wait(_PATIENCE_S) == 1
        assert watch.words.end().startswith("reactor: DATABASE_UNAVAILABLE: ")
        assert watch.out.end() == ""


def test_on_a_terminal_it_redraws_says_an_outage_and_gives_the_terminal_back(app: App, server_url: str) -> None:
    with watching_on_terminal(app) as watch:
        watch.out.wait_for("uploads waiting")
        with outage(app, server_url):
            watch.out.wait_for("the database hasn't answered for")
        app.queue_uploads(7, next_retry_at="2100-01-01")
        watch.out.wait_for("7  ")
        assert watch.told(signal.SIGINT) == 0
    assert watch.out.text.rfind(SHOW_CURSOR) > watch.out.text.rfind(HIDE_CURSOR) > -1


# what it shows


def drawn(status: dict[str, Any]) -> str:
    out = console()
    with out.capture() as captured:
        out.print(table(status))
    return captured.get()


def test_refusals_and_usage_are_shown_by_plan(app: App) -> None:
    app.queue_uploads(content=b"x" * 1000)
    user = uuid4()
    app.all("select public.set_plan(%s, 'pro')", user)
    for size in (1 << 20, 1 << 40, 1 << 40):
        app.all("select public.reserve_upload(%s, %s, %s)", user, sha256(b"%d" % size).hexdigest(), size)
    app.conn.execute("update public.sources set storage_status = 'uploaded' where user_id = %s", (user,))

    with inspecting(app.url) as inspector:
        lines = [" ".join(line.split()) for line in drawn(inspector.status(60)).splitlines()]

    assert "storage used 1,048,576 bytes" in lines
    assert "free 0 bytes, 1 users" in lines
    assert "pro 1,048,576 bytes, 1 users" in lines
    assert "refused by quota 2 in the last hour" in lines
    assert "storage, plan pro 2" in lines
