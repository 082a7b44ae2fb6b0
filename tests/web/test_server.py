"""The web server answers allowed hosts only, reports errors as JSON, and shows no internals."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio import EndOfStream, connect_tcp, create_task_group, fail_after, to_thread

from reactor.core.errors import DatabaseUnavailable
from reactor.core.settings import answers_host, is_loopback
from reactor.postgres.status import KnownFigures
from reactor.web.auth import Sessions
from reactor.web.routes import Routes
from reactor.web.server import WebServer

STATUS: dict[str, Any] = {"uploads": {}}


def server_on(
    listening: socket.socket,
    host: str = "127.0.0.1",
    *,
    hosts: Sequence[str] = (),
    failure: Exception | None = None,
    known: KnownFigures | None = None,
) -> WebServer:
    async def metrics() -> bytes:
        return b"metric 1\n"

    async def status() -> dict[str, Any]:
        if failure is not None:
            raise failure
        return STATUS

    nothing: Any = None  # no page is requested
    page = Routes(
        nothing, nothing, nothing, nothing, Sessions(None, is_private=is_loopback(host) and not hosts, port=0)
    )
    return WebServer(
        listening,
        is_answered=partial(answers_host, http_host=host, http_hosts=hosts),
        not_ready=lambda: ["a reason"],
        metrics=metrics,
        status=status,
        known_figures=lambda: known,
        routes=[],
        guard=page.guard,
        error_handlers=page.error_handlers(),
    )


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1",
    *,
    hosts: Sequence[str] = (),
    failure: Exception | None = None,
    known: KnownFigures | None = None,
) -> AsyncIterator[str]:
    """Run a server and yield its URL."""
    with WebServer.bind(host, 0) as listening:
        server = server_on(listening, host, hosts=hosts, failure=failure, known=known)
        async with create_task_group() as tasks:
            tasks.start_soon(server.serve)
            yield server.url
            server.close()


async def send(url: str, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], str]:
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
async def test_an_unknown_address_is_a_404_in_json(path: str) -> None:
    async with serving() as url:
        status, headers, body = await send(url, path)
    assert (status, headers["content-type"]) == (404, "application/json")
    assert json.loads(body)["error"] == "NOT_FOUND"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/api/status"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_a_wrong_method_is_a_405_in_json_that_lists_the_allowed_ones(path: str, method: str) -> None:
    async with serving() as url:
        status, headers, body = await send(url, path, method=method)
    assert (status, headers["content-type"]) == (405, "application/json")
    assert "GET" in headers["allow"]
    assert json.loads(body) == {"error": "INVALID_ARGUMENT", "message": f"{method} is not allowed here"}


async def test_an_unreachable_database_is_a_503_in_json() -> None:
    async with serving(failure=DatabaseUnavailable("it is down")) as url:
        status, _, body = await send(url, "/api/status")
    assert status == 503
    assert json.loads(body) == {"error": "DATABASE_UNAVAILABLE", "message": "it is down", "reasons": ["a reason"]}


async def test_an_unreachable_database_is_answered_with_the_last_figures_and_their_age() -> None:
    known = KnownFigures({"uploads": {"dead": 3}}, 12.34)
    async with serving(failure=DatabaseUnavailable("it is down"), known=known) as url:
        status, _, body = await send(url, "/api/status")
    assert status == 503
    assert json.loads(body)["last_figures"] == {"age_s": 12.3, "uploads": {"dead": 3}}


async def test_a_failure_is_a_500_in_json_without_details() -> None:
    async with serving(failure=KeyError("secret words")) as url:
        status, headers, body = await send(url, "/api/status")
        assert (await send(url, "/healthz"))[0] == 200
    assert (status, headers["content-type"]) == (500, "application/json")
    assert json.loads(body) == {
        "error": "internal error",
        "message": "the reactor failed to answer; its log has the reason",
    }
    for word in ("secret", "KeyError", "Traceback", ".py"):
        assert word not in body


WRONG_HOST = "this host name isn't answered: add it to REACTOR_HTTP_HOSTS"

LOCAL_HOSTS = [
    "localhost",
    "LOCALHOST:9000",
    "127.0.0.1",
    "127.0.0.1:8321",
    "127.8.9.1:1",
    "[::1]:8321",
    "reactor.localhost:80",
]
OTHER_HOSTS = [
    "example.org",
    "example.org:8321",
    "localhost.example.org",
    "127.0.0.1.example.org",
    "10.0.0.1:8321",
    "",
    "[",
]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
async def test_names_of_this_machine_are_answered_with_any_port(host: str) -> None:
    """Through a forwarded port, a browser sends a name like localhost with a port that isn't the server's."""
    async with serving() as url:
        assert (await send(url, "/api/status", host=host))[0] == 200


@pytest.mark.parametrize("host", OTHER_HOSTS)
async def test_other_hosts_are_refused_on_every_address(host: str) -> None:
    async with serving() as url:
        status, _, body = await send(url, "/api/status", host=host)
        assert (status, json.loads(body)["error"]) == (403, "NOT_ALLOWED")
        assert (await send(url, "/nothing", host=host))[0] == 403


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 503), ("/metrics", 200)])
async def test_probes_and_metrics_are_answered_under_any_host(path: str, status: int) -> None:
    async with serving() as url:
        assert (await send(url, path, host="reactor.monitoring.svc:8321"))[0] == status


LISTED = ["reactor.example.org", "Reactor.Example.ORG:8443", "reactor.example.org.", "10.1.2.3:80"]


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104 - what a container sets
@pytest.mark.parametrize("name", [*LISTED, "localhost"])
async def test_a_listed_host_is_answered_on_every_address_and_reading_then_needs_the_token(
    host: str, name: str
) -> None:
    async with serving(host, hosts=["reactor.example.org", "10.1.2.3"]) as url:
        status, _, body = await send(url.replace("0.0.0.0", "127.0.0.1"), "/api/status", host=name)  # noqa: S104
        assert (status, json.loads(body)["error"]) == (401, "NOT_ALLOWED")


@pytest.mark.parametrize(
    "host", [*OTHER_HOSTS, "a.reactor.example.org", "reactor.example.org.evil", "xreactor.example.org"]
)
async def test_on_a_public_address_only_addresses_and_listed_names_are_answered(host: str) -> None:
    async with serving("0.0.0.0", hosts=["reactor.example.org"]) as url:  # noqa: S104 - what a container sets
        local = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - the same
        status, _, body = await send(local, "/api/status", host=host)
        if host.startswith("10."):
            assert (status, json.loads(body)["error"]) == (401, "NOT_ALLOWED")
        else:
            assert (status, json.loads(body)["message"]) == (403, WRONG_HOST)
        assert (await send(local, "/healthz", host=host))[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/status", "/nothing"])
async def test_every_answer_has_the_security_headers(path: str) -> None:
    """The answer to an internal failure, here of /api/status, has the headers too."""
    async with serving(failure=KeyError("of this test")) as url:
        _, headers, _ = await send(url, path)
    assert headers["content-security-policy"].startswith("default-src 'none'; ")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize("is_reused", [False, True])
@pytest.mark.parametrize("sent", [b"GET /healthz HTTP/1.1\r\nHost: localho", b"G"])
async def test_a_connection_without_a_complete_request_head_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, is_reused: bool
) -> None:
    """A connection is also closed if the server has answered an earlier request on it."""
    monkeypatch.setattr("reactor.web.connections.CLIENT_TIMEOUT_S", 0.2)
    async with serving() as url:

        def send_part_of_a_head() -> bytes:
            connection = HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=10)
            connection.connect()
            if is_reused:
                connection.request("GET", "/healthz")
                assert connection.getresponse().read()
            connection.sock.sendall(sent)
            with connection.sock as conn:
                return conn.recv(10_000)

        assert await to_thread.run_sync(send_part_of_a_head) == b""


async def test_a_connection_without_any_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.web.connections.CLIENT_TIMEOUT_S", 0.2)
    async with serving() as url:

        def send_nothing() -> bytes:
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as conn:
                return conn.recv(10_000)

        assert await to_thread.run_sync(send_nothing) == b""


async def test_a_request_without_a_host_is_answered() -> None:
    """Every browser sends a host, so a request without a host is not an attack through a browser."""
    async with serving() as url:

        def send_without_host() -> bytes:
            with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=10) as conn:
                conn.sendall(b"GET /api/status HTTP/1.0\r\n\r\n")
                return conn.makefile("rb").readline()

        assert b" 200 " in await to_thread.run_sync(send_without_host)


async def test_a_reused_connection_is_answered_without_delay() -> None:
    """Nagle's algorithm and a delayed acknowledgement would cost 40 ms per answer."""
    async with serving() as url:

        def durations_s() -> list[float]:
            connection = HTTPConnection("127.0.0.1", urlsplit(url).port, timeout=10)
            durations = []
            for _ in range(25):
                began_at = time.monotonic()
                connection.request("GET", "/healthz")
                assert connection.getresponse().read()
                durations.append(time.monotonic() - began_at)
            connection.close()
            return sorted(durations)

        assert (await to_thread.run_sync(durations_s))[12] < 0.035


async def test_cancelling_closes_the_socket_and_idle_connections() -> None:
    """A program may embed a reactor and cancel it. Its next socket may get the number of the closed descriptor."""
    loop = asyncio.get_running_loop()
    listening = WebServer.bind("127.0.0.1", 0)
    server = server_on(listening)
    descriptor = listening.fileno()
    async with create_task_group() as tasks:
        tasks.start_soon(server.serve)
        stream = await connect_tcp("127.0.0.1", urlsplit(server.url).port or 0)
        await stream.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in await stream.receive()
        tasks.cancel_scope.cancel()
    assert listening.fileno() == -1
    assert not loop.remove_reader(descriptor)
    async with stream:
        with fail_after(30), pytest.raises(EndOfStream):
            while True:
                await stream.receive()
