"""The number of HTTP connections is limited, and a connection that waits for its client ends."""

import asyncio
import resource
import select
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from urllib.parse import urlsplit

import pytest
from anyio import create_task_group, fail_after, to_thread
from loguru import logger
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from support.descriptors import no_free_descriptor

from reactor.web.connections import MANY_CONNECTIONS, ConnectionServer
from reactor.web.server import WebServer

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIMIT = 4
LARGE = b"x" * (32 << 20)
"""More bytes than the buffers of a loopback connection hold."""


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, *, limit: int = LIMIT, timeout_s: float = 30.0
) -> AsyncIterator[str]:
    """Run a server with small limits; yield its URL. /large has a large answer, /endless a stream without an end."""
    monkeypatch.setattr("reactor.web.connections.MAX_CONNECTIONS", limit)
    monkeypatch.setattr("reactor.web.connections.CLIENT_TIMEOUT_S", timeout_s)

    async def large(_: Request) -> Response:
        return Response(LARGE)

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async def endless(_: Request) -> Response:
        return StreamingResponse(parts())

    async def nothing() -> bytes:
        return b""

    async def status() -> dict[str, object]:
        return {}

    with WebServer.bind("127.0.0.1", 0) as listening:
        server = WebServer(
            listening,
            is_answered=lambda _: True,
            not_ready=list,
            metrics=nothing,
            status=status,
            known_figures=lambda: None,
            routes=[Route("/large", large), Route("/endless", endless)],
            guard=lambda _: None,
            error_handlers={},
        )
        async with create_task_group() as tasks:
            tasks.start_soon(server.serve)
            yield server.url
            server.close()


def connected(url: str, sent: bytes = b"") -> socket.socket:
    conn = socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=20)
    conn.sendall(sent)
    return conn


def answer_to(url: str, sent: bytes = HEAD) -> bytes:
    """Return the beginning of the answer on a new connection."""
    with connected(url, sent) as conn:
        return conn.recv(12)


def has_ended(conn: socket.socket) -> bool:
    """Wait until the server closes the connection; read and drop what it sent before."""
    try:
        while conn.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return True


WAITING = [b"", b"GET / HT", b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx", HEAD]


@pytest.mark.parametrize("sent", WAITING)
async def test_a_new_connection_replaces_the_one_that_has_waited_longest(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async with serving(monkeypatch) as url:
        with ExitStack() as stack:
            for _ in range(3 * LIMIT):
                first = stack.enter_context(await to_thread.run_sync(connected, url, sent))
                if first.fileno() >= 0 and sent == HEAD:
                    await to_thread.run_sync(first.recv, 12)
            assert await to_thread.run_sync(answer_to, url) == b"HTTP/1.1 200"


async def test_a_connection_that_waits_for_the_reactor_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    request = HEAD.replace(b"healthz", b"endless")
    async with serving(monkeypatch) as url:
        with ExitStack() as stack:
            streams = [stack.enter_context(await to_thread.run_sync(connected, url, request)) for _ in range(LIMIT)]
            for stream in streams:
                assert await to_thread.run_sync(stream.recv, 12) == b"HTTP/1.1 200"
            with await to_thread.run_sync(connected, url) as refused:
                assert await to_thread.run_sync(has_ended, refused)
            streams.pop().close()
            with fail_after(20):
                while await to_thread.run_sync(_try_answer, url) != b"HTTP/1.1 200":
                    pass
            for stream in streams:
                stream.settimeout(0)
                with pytest.raises(BlockingIOError):
                    while stream.recv(1 << 16):
                        pass


def _try_answer(url: str) -> bytes:
    try:
        return answer_to(url)
    except ConnectionResetError:
        return b""


BODY = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        BODY,
        BODY + b"x" * 500,
        HEAD.replace(b"healthz", b"large"),
        HEAD.replace(b"healthz", b"large") * 50,
        b"GET /endless HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    ],
)
async def test_a_client_that_neither_sends_nor_reads_is_disconnected(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    async with serving(monkeypatch, timeout_s=0.5) as url:
        with await to_thread.run_sync(connected, url, sent) as conn:
            assert await to_thread.run_sync(is_disconnected, conn)


def is_disconnected(conn: socket.socket) -> bool:
    """Wait, without reading, until the server has closed the connection."""
    poll = select.epoll()
    poll.register(conn, select.EPOLLRDHUP | select.EPOLLHUP)
    try:
        return bool(poll.poll(20))
    finally:
        poll.close()


async def test_a_stream_that_is_read_lasts_longer_than_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch, timeout_s=0.5) as url:
        with await to_thread.run_sync(connected, url, HEAD.replace(b"healthz", b"endless")) as stream:
            assert (await to_thread.run_sync(stream.recv, 12)).endswith(b" 200")
            with await to_thread.run_sync(connected, url) as idle:
                assert await to_thread.run_sync(has_ended, idle)
            with await to_thread.run_sync(connected, url) as idle:
                assert await to_thread.run_sync(has_ended, idle)
            stream.settimeout(0)
            with pytest.raises(BlockingIOError):
                while stream.recv(1 << 16):
                    pass


async def test_with_many_connections_each_has_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch, limit=1000) as url:
        with await to_thread.run_sync(connected, url, HEAD) as reused:
            assert await to_thread.run_sync(reused.recv, 10_000)
            with ExitStack() as stack:
                for _ in range(MANY_CONNECTIONS):
                    stack.enter_context(await to_thread.run_sync(connected, url))
                assert await to_thread.run_sync(answer_to, url) == b"HTTP/1.1 200"
                await to_thread.run_sync(reused.sendall, HEAD * 3)
                received = await to_thread.run_sync(read_all, reused)
    assert received.count(b"HTTP/1.1 200") == 1


def read_all(conn: socket.socket) -> bytes:
    received = b""
    while part := conn.recv(1 << 16):
        received += part
    return received


async def test_a_websocket_is_an_ordinary_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebSocket protocol would replace the class that counts connections, if its package is installed."""
    head = HEAD.removesuffix(b"\r\n")
    upgrade = head + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    async with serving(monkeypatch) as url:
        assert await to_thread.run_sync(answer_to, url, upgrade) == b"HTTP/1.1 200"
    with WebServer.bind("127.0.0.1", 0) as listening:
        assert ConnectionServer(_unused, listening, headers=[]).config.ws == "none"


async def test_without_a_free_descriptor_the_server_logs_one_line_and_answers_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    added = logger.add(lambda line: lines.append(str(line)), level="DEBUG")
    refused = asyncio.Event()
    accept = asyncio.get_running_loop().sock_accept

    async def watched(listening: socket.socket) -> tuple[socket.socket, object]:
        try:
            return await accept(listening)
        except OSError:
            refused.set()
            raise

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_accept", watched)
    try:
        async with serving(monkeypatch) as url:
            with socket.socket() as conn:
                with no_free_descriptor():
                    conn.settimeout(20)
                    conn.connect(("127.0.0.1", urlsplit(url).port or 0))
                    with fail_after(20):
                        await refused.wait()
                conn.sendall(HEAD)
                assert await to_thread.run_sync(conn.recv, 12) == b"HTTP/1.1 200"
    finally:
        logger.remove(added)
    assert len(lines) == 1
    assert "can't accept a connection: Too many open files" in lines[0]


async def test_the_limit_is_at_most_a_quarter_of_the_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (400, before[1]))
        with WebServer.bind("127.0.0.1", 0) as listening:
            server = ConnectionServer(_unused, listening, headers=[])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert server._limit == 100


async def _unused(*_: object) -> None:
    raise AssertionError
