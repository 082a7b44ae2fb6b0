"""A proxy in front of PostgreSQL that imitates network faults: resets, silence, delay, lost notifications.

`freeze`, `blackhole`, `reset` and `half_close` affect only the connections that are open at that moment, like a
middlebox that loses its state. `delay_s` and `swallows_notifications` affect every connection;
`swallows_notifications` imitates a transaction pooler.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal

_NOTIFICATION = b"A"


class _Connection:
    """One client's connection and its connection to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.flows = asyncio.Event()
        """While it is clear, the proxy reads from neither side, so the send buffers of both sides fill."""
        self.flows.set()
        self.is_blackhole = False
        """Whether all data is read and dropped. Neither side notices this, because TCP acknowledges the data."""


class Proxy:
    """Forwards bytes between clients and the server."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url)
        self.url = ""
        self.swallows_notifications = False
        self.delay_s = 0.0
        """Delay of each message, in both directions."""
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Reset the remaining connections and wait until they have ended."""
        for connection in self._connections:
            connection.flows.set()
        self.reset()
        await asyncio.gather(*self._tasks)

    def lead_to(self, server_url: str) -> None:
        """Forward new connections to another server, as a name does that has moved. Open connections stay."""
        self._server = urlsplit(server_url)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    def freeze(self) -> None:
        """Stop reading from both sides of the open connections, like a stopped process. Close none of them."""
        for connection in self._connections:
            connection.flows.clear()

    def blackhole(self) -> None:
        """Drop all data of the open connections in both directions. TCP still acknowledges the data."""
        for connection in self._connections:
            connection.is_blackhole = True

    def reset(self) -> None:
        """Close both sides of every open connection with a TCP RST."""
        for connection in list(self._connections):
            for writer in (connection.client, connection.server):
                if not writer.is_closing():
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    def half_close(self) -> None:
        """Send the clients an end of stream. Keep both sides of the connections open, but drop all data on them."""
        for connection in self._connections:
            if not connection.client.is_closing():
                connection.client.write_eof()
            connection.is_blackhole = True

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            theirs, server = await asyncio.open_connection(self._server.hostname, self._server.port)
        except OSError:
            writer.close()
            return
        connection = _Connection(writer, server)
        self._connections.add(connection)
        await asyncio.gather(self._to_server(connection, reader), self._to_client(connection, theirs))
        self._connections.discard(connection)

    async def _to_server(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while True:
                await connection.flows.wait()
                data = await reader.read(65536)
                if not data:
                    break
                await self._pass_on(connection, connection.server, data)
        connection.server.close()

    async def _to_client(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        """Forward the server's messages one by one; each has a type byte, a length and a body."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await connection.flows.wait()
                head = await reader.readexactly(5)
                rest = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                await connection.flows.wait()
                if not (self.swallows_notifications and head[:1] == _NOTIFICATION):
                    await self._pass_on(connection, connection.client, head + rest)
        connection.client.close()

    async def _pass_on(self, connection: _Connection, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if not connection.is_blackhole:
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(server_url: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a server; clients connect to `proxy.url`."""
    proxy = Proxy(server_url)
    listening = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    parts = urlsplit(server_url)
    user = parts.netloc.rpartition("@")[0]
    proxy.url = parts._replace(netloc=f"{user}@127.0.0.1:{port}", query="sslmode=disable&gssencmode=disable").geturl()
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.close()


@contextmanager
def proxied_in_thread(server_url: str) -> Iterator[tuple[Proxy, Callable[[Callable[[], None]], None]]]:
    """Run a proxy in a thread, for tests without an event loop.

    Yields the proxy and a function that calls its argument in that thread; the proxy's methods must be called this way.
    """
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(proxied(server_url)) as proxy,
    ):
        yield proxy, portal.call
