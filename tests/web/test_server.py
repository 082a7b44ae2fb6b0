"""The web server answers who may ask, in JSON, and tells nobody how it is made."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio import EndOfStream, connect_tcp, create_task_group, fail_after, to_thread

from reactor.core.errors import DatabaseUnavailable
from reactor.web.server import Http

STATUS: dict[str, Any] = {"uploads": {}}


def http_of(host: str = "127.0.0.1", *, failure: Exception | None = None) -> Http:
    async def metrics() -> bytes:
        return b"metric 1\n"

    async def status() -> dict[str, Any]:
        if failure is not None:
            raise failure
        return STATUS

    return Http(host, 0, not_ready=lambda: ["a reason"], metrics=metrics, status=status)


@asynccontextmanager
async def serving(host: str = "127.0.0.1", *, failure: Exception | None = None) -> AsyncIterator[str]:
    """Serve, and yield the URL."""
    http = http_of(host, failure=failure)
    with http.bind() as listening:
        async with create_task_group() as tasks:
            tasks.start_soon(http.serve, listening)
            yield http.url
            http.close()


async def ask(url: str, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body."""

    def blocking() -> tuple[int, dict[str, str], str]:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        try:
            connection.request(method, path, headers={} if host is None else {"Host": host})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        finally:
            connection.close()

    return await to_thread.run_sync(blocking)


@pytest.mark.parametrize("path", ["/nothing", "/api", "/api/status/", "/../etc/passwd", "/%00"])
async def test_what_is_not_there_is_a_404_in_json(path: str) -> None:
    async with serving() as url:
        status, headers, body = await ask(url, path)
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body)["error"] == "NOT_FOUND"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/api/status"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_a_405_in_json_that_names_the_right_ones(path: str, method: str) -> None:
    async with serving() as url:
        status, headers, body = await ask(url, path, method=method)
    assert (status, headers["content-type"]) == (405, "application/json")
    assert "GET" in headers["allow"]
    assert json.loads(body) == {"error": "INVALID_ARGUMENT", "message": f"{method} isn't answered here"}


async def test_a_database_that_is_away_is_a_503_in_json() -> None:
    async with serving(failure=DatabaseUnavailable("it is away")) as url:
        status, _, body = await ask(url, "/api/status")
    assert status == 503
    assert json.loads(body) == {"error": "DATABASE_UNAVAILABLE", "message": "it is away"}


async def test_a_failure_of_ours_is_a_500_that_says_nothing_of_it() -> None:
    async with serving(failure=KeyError("marked words")) as url:
        status, headers, body = await ask(url, "/api/status")
        assert (await ask(url, "/healthz"))[0] == 200
    assert (status, headers["content-type"]) == (500, "application/json")
    assert json.loads(body) == {
        "error": "internal error",
        "message": "the reactor failed to answer; its log says why",
    }
    for word in ("marked", "KeyError", "Traceback", ".py"):
        assert word not in body


HERE = [
    "localhost",
    "LOCALHOST:9000",
    "127.0.0.1",
    "127.0.0.1:8321",
    "127.8.9.1:1",
    "[::1]:8321",
    "reactor.localhost:80",
]
ELSEWHERE = [
    "example.org",
    "example.org:8321",
    "localhost.example.org",
    "127.0.0.1.example.org",
    "10.0.0.1:8321",
    "",
    "[",
]


@pytest.mark.parametrize("host", HERE)
async def test_names_of_this_machine_are_answered_on_it(host: str) -> None:
    """A forwarded port keeps the name and changes the number."""
    async with serving() as url:
        assert (await ask(url, "/api/status", host=host))[0] == 200


@pytest.mark.parametrize("host", ELSEWHERE)
async def test_a_name_that_was_bent_towards_this_machine_is_refused(host: str) -> None:
    async with serving() as url:
        status, _, body = await ask(url, "/api/status", host=host)
        assert (status, json.loads(body)["error"]) == (403, "NOT_ALLOWED")
        assert (await ask(url, "/nothing", host=host))[0] == 403


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503), ("/metrics", 200)])
async def test_probes_and_metrics_are_answered_under_any_name(path: str, status: int) -> None:
    async with serving() as url:
        assert (await ask(url, path, host="reactor.monitoring.svc:8321"))[0] == status


async def test_on_an_address_for_others_any_name_is_answered_and_reading_is_refused_unless_somebody_may() -> None:
    """Its names can't be known; settings want a token there, and whoever holds it says who may read."""
    async with serving("0.0.0.0") as url:  # noqa: S104 - what a container sets
        local = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - the same
        assert (await ask(local, "/healthz", host="reactor.example.org"))[0] == 200
        status, _, body = await ask(local, "/api/status", host="reactor.example.org")
        assert (status, json.loads(body)["error"]) == (401, "NOT_ALLOWED")


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/status", "/nothing"])
async def test_every_answer_tells_a_browser_to_trust_nothing(path: str) -> None:
    async with serving() as url:
        _, headers, _ = await ask(url, path)
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("sent", [b"GET /healthz HTTP/1.1\r\nHost: localho", b"G"])
async def test_who_does_not_finish_a_request_is_let_go(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, is_known: bool
) -> None:
    """Also one whose earlier request was answered."""
    monkeypatch.setattr("reactor.web.server._HEAD_WITHIN_S", 0.2)
    async with serving() as url:

        def dawdle() -> bytes:
            connection = HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=10)
            connection.connect()
            if is_known:
                connection.request("GET", "/healthz")
                assert connection.getresponse().read()
            connection.sock.sendall(sent)
            with connection.sock as conn:
                return conn.recv(10_000)

        assert await to_thread.run_sync(dawdle) == b""


async def test_who_connects_and_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.web.server._HEAD_WITHIN_S", 0.2)
    async with serving() as url:

        def silent() -> bytes:
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as conn:
                return conn.recv(10_000)

        assert await to_thread.run_sync(silent) == b""


async def test_who_sends_no_host_is_no_browser() -> None:
    async with serving() as url:

        def old() -> bytes:
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as conn:
                conn.sendall(b"GET /api/status HTTP/1.0\r\n\r\n")
                return conn.makefile("rb").readline()

        assert b" 200 " in await to_thread.run_sync(old)


async def test_cancelled_it_watches_no_socket_and_lets_idle_clients_go() -> None:
    """Whoever embeds a reactor may cancel it: the next socket to be opened has the number of the one closed here."""
    loop = asyncio.get_running_loop()
    http = http_of()
    listening = http.bind()
    descriptor = listening.fileno()
    async with create_task_group() as tasks:
        tasks.start_soon(http.serve, listening)
        stream = await connect_tcp("127.0.0.1", urlsplit(http.url).port or 0)
        await stream.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await stream.receive()
        tasks.cancel_scope.cancel()
    assert listening.fileno() == -1
    assert not loop.remove_reader(descriptor)
    async with stream:
        with fail_after(30), pytest.raises(EndOfStream):
            while True:
                await stream.receive()
