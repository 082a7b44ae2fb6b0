"""2 000 HTTP clients that send or read nothing delay neither uploads nor probes nor SIGTERM, and fill no log."""

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from urllib.parse import urlsplit

import pytest
from support.app import App
from support.process import Running, running, settings_of

CLIENTS = 2_000
UPLOADS = 300
ROUNDS = 5
INTERVAL_S = 0.03
RECONNECT_S = 15.0
LOG_BYTES_PER_MINUTE = 1_000_000
SHUTDOWN_S = 5.0

SENT = (
    b"",
    b"GET / HTTP/1.1\r\nHost: localho",
    b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nactor=",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500,
    b"GET /login HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n",
)
"""What a client sends before it is silent. No client reads."""


class Clients:
    """Clients in a thread of their own. When the server closes a connection, its client connects again later."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self.connected = 0
        self._sockets: dict[int, tuple[socket.socket, bytes]] = {}
        self._due = deque((0.0, SENT[number % len(SENT)]) for number in range(CLIENTS))
        self._poll = select.epoll()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def connecting(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._has_ended.set()
            self._thread.join()
            for conn, _ in self._sockets.values():
                conn.close()
            self._poll.close()

    def _run(self) -> None:
        while not self._has_ended.is_set():
            while self._due and self._due[0][0] <= time.monotonic():
                self._connect(self._due.popleft()[1])
            for descriptor, event in self._poll.poll(0.1):
                conn, sent = self._sockets[descriptor]
                if event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                    del self._sockets[descriptor]
                    conn.close()
                    self._due.append((time.monotonic() + RECONNECT_S, sent))
                else:
                    self.connected += 1
                    conn.send(sent)
                    self._poll.modify(descriptor, select.EPOLLRDHUP)

    def _connect(self, sent: bytes) -> None:
        conn = socket.socket()
        conn.setblocking(False)
        conn.connect_ex(self._address)
        self._sockets[conn.fileno()] = (conn, sent)
        self._poll.register(conn, select.EPOLLOUT | select.EPOLLRDHUP)


def p95_s(app: App, run: Running) -> float:
    """Queue uploads at a steady rate. Return the 95th percentile of their reaction times."""
    for _ in range(UPLOADS):
        app.queue_uploads()
        time.sleep(INTERVAL_S)  # the app's pace
    while run.get_json("/api/live")["reaction_s"]["count"] < UPLOADS:
        pass
    return float(run.get_json("/api/live")["reaction_s"]["p95"])


def assert_unspent(app: App, run: Running) -> None:
    assert "next attempt in" not in run.log
    assert app.one("select count(*) from public.upload_queue where retry_count > 1 or status = 'dead'") == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_thousand_silent_clients_cost_uploads_nothing(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    alone, attacked, shutdowns_s, connected, slowest_probe_s = [], [], [], [], 0.0
    for _ in range(ROUNDS):
        with running(settings_of(app), cwd=app.spool) as run:
            run.wait_until_ready()
            alone.append(p95_s(app, run))
            run.terminate()
            assert run.ended() == 0
        with running(settings_of(app), cwd=app.spool) as run:
            run.wait_until_ready()
            clients = Clients(urlsplit(run.url).port or 0)
            began = time.monotonic()
            with clients.connecting():
                attacked.append(p95_s(app, run))
                probed_at = time.monotonic()
                assert run.get("/readyz")[0] == 200
                slowest_probe_s = max(slowest_probe_s, time.monotonic() - probed_at)
                connected.append(clients.connected)
                assert_unspent(app, run)
                minutes = max(1.0, (time.monotonic() - began) / 60)
                run.terminate()
                terminated_at = time.monotonic()
                assert run.ended() == 0
                shutdowns_s.append(time.monotonic() - terminated_at)
            log_bytes = len(run.log) / minutes
    with capsys.disabled():
        print(  # noqa: T201 - figures are for people
            f"\n{CLIENTS} silent clients, {connected} connections: reaction p95"
            f" {[round(1000 * p95, 1) for p95 in attacked]} ms ({[round(1000 * p95, 1) for p95 in alone]} without),"
            f" probe {1000 * slowest_probe_s:.0f} ms, log {log_bytes / 1000:.1f} kB a minute,"
            f" SIGTERM {max(shutdowns_s):.2f} s"
        )
    assert min(connected) >= CLIENTS
    assert median(attacked) <= 1.5 * median(alone)
    assert log_bytes < LOG_BYTES_PER_MINUTE
    assert max(shutdowns_s) <= SHUTDOWN_S
