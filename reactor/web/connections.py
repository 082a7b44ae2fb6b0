"""Accepts HTTP connections and limits their number and how long they may wait for their client.

A connection waits for its client while a request is incomplete or bytes of a response are unread; otherwise it waits
for the reactor. If a new connection exceeds the limit, it replaces the one that has waited longest for its client, so
that clients which send or read nothing can't keep probes out. The limit leaves most file descriptors to uploads.
While there are many connections, each ends after its first answer, so that a client can't send requests in a row.
"""

import asyncio
import resource
import socket
import struct
from asyncio import Transport
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import uvicorn
from anyio import create_task_group, sleep
from loguru import logger
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS: Final = 256
"""Maximum number of connections: this, or a quarter of the process's file descriptors if that is less."""

CLIENT_TIMEOUT_S: Final = 12.0
"""How long a connection may wait for its client. Longer than forms.BODY_TIMEOUT_S, so that the answer 408 is sent."""

MANY_CONNECTIONS: Final = 64
"""Above this number, a connection ends after its first answer, and new ones are accepted more slowly."""

_BACKLOG: Final = 512
_MANY_PAUSE_S: Final = 0.005
"""Pause after each connection above MANY_CONNECTIONS: a flood of connections must not delay uploads."""

_REFUSED_PAUSE_S: Final = 1.0
"""Pause after the system refused a connection, for example without a free file descriptor."""

_NO_LINGER: Final = struct.pack("ii", 1, 0)
_WARN_EVERY_S: Final = 60.0
_TICKS_PER_S: Final = 10  # uvicorn calls `on_tick` ten times a second


class Connection(H11Protocol):
    """One connection, which records since when it has waited for its client."""

    waiting_since = 0.0
    """The event loop's time of the last request head, or of the last check that found no wait."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # uvicorn's own signature
        super().connection_made(transport)
        self.waiting_since = self.loop.time()

    def handle_events(self) -> None:
        request = self.cycle
        super().handle_events()
        if self.cycle is not request:
            self.waiting_since = self.loop.time()
            self.cycle.keep_alive &= len(self.connections) <= MANY_CONNECTIONS

    @property
    def waits_for_client(self) -> bool:
        """Whether the client must send or read something before the reactor can continue."""
        request: RequestResponseCycle | None = self.cycle
        if request is None or request.response_complete or request.more_body:
            return True
        return self.transport.get_write_buffer_size() > 0

    def check(self) -> None:
        """Close the connection if it has waited too long for its client."""
        now = self.loop.time()
        if not self.waits_for_client:
            self.waiting_since = now
        elif now - self.waiting_since >= CLIENT_TIMEOUT_S:
            self.end()

    def end(self) -> None:
        """Close the connection now, and drop the bytes that its client hasn't read."""
        if self.transport.get_write_buffer_size() > 0:  # otherwise the kernel would keep its part of them
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()


class ConnectionServer(uvicorn.Server):
    """A uvicorn server that accepts its connections itself, and leaves signal handlers to the command.

    asyncio's own server accepts without a limit, and logs a traceback for each connection that the system refuses.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket, *, headers: list[tuple[str, str]]) -> None:
        """`headers` are added to each response."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            headers=headers,
            server_header=False,
            proxy_headers=False,  # the audit log records the peer's address, not what a header claims
            http=Connection,
            ws="none",  # a WebSocket would not be counted as a connection
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        listening.setblocking(False)
        listening.listen(_BACKLOG)
        self._listening = listening
        self._limit = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        self._warned_at = -_WARN_EVERY_S

    @property
    def _connections(self) -> set[Connection]:
        return self.server_state.connections  # type: ignore[return-value]  # `Config.http` decides their class

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Close socket and connections at the end. uvicorn runs the server inside this context manager."""
        try:
            yield
        finally:
            self._listening.close()
            for connection in list(self._connections):
                connection.end()

    async def main_loop(self) -> None:
        """Accept connections until `should_exit` is set."""
        async with create_task_group() as tasks:
            tasks.start_soon(self._accept)
            await super().main_loop()
            tasks.cancel_scope.cancel()

    async def on_tick(self, counter: int) -> bool:
        """Check the connections once a second. Return whether to end the server."""
        if counter % _TICKS_PER_S == 0:
            for connection in list(self._connections):
                connection.check()
        return await super().on_tick(counter)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        connect = partial(Connection, config=self.config, server_state=self.server_state, app_state={}, _loop=loop)
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                self._warn(f"The HTTP server can't accept a connection: {error.strerror}.")
                await sleep(_REFUSED_PAUSE_S)
                continue
            if len(self._connections) >= self._limit and not self._make_room():
                accepted.close()
                continue
            await loop.connect_accepted_socket(connect, accepted)
            if len(self._connections) > MANY_CONNECTIONS:
                await sleep(_MANY_PAUSE_S)

    def _make_room(self) -> bool:
        """Close the connection that has waited longest for its client. Return False if none waits for its client."""
        self._warn(f"More than {self._limit} HTTP connections: those that wait for their client are closed.")
        waiting = [connection for connection in self._connections if connection.waits_for_client]
        if not waiting:
            return False
        min(waiting, key=lambda connection: connection.waiting_since).end()
        return True

    def _warn(self, message: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= _WARN_EVERY_S:
            self._warned_at = now
            logger.warning(message)
