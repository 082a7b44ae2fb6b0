"""A proxy before PostgreSQL that can be deaf to notifications, as a transaction pooler is, or fall silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_NOTIFICATION = b"A"


class Proxy:
    """Passes bytes on, both ways, between clients and the server."""

    def __init__(self, server_url: str) -> None:
        self._server = urlsplit(server_url)
        self.url = ""
        self.swallows_notifications = False
        self._frozen: set[int] = set()
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        """Pass nothing on any more for the connections there are, and close none: new ones work."""
        self._frozen = set(range(self._connections + 1))

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        theirs = await asyncio.open_connection(self._server.hostname, self._server.port)
        await asyncio.gather(
            self._to_server(number, reader, theirs[1]), self._to_client(number, theirs[0], writer)
        )

    async def _to_server(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while (data := await reader.read(65536)) and not self._is_frozen(number):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _to_client(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass the server's messages on one by one: a kind, a length, the rest."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                rest = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                if self._is_frozen(number) or (self.swallows_notifications and head[:1] == _NOTIFICATION):
                    continue
                writer.write(head + rest)
                await writer.drain()
        writer.close()

    def _is_frozen(self, number: int) -> bool:
        return number in self._frozen


@asynccontextmanager
async def proxied(server_url: str) -> AsyncIterator[Proxy]:
    """Stand before a server; `proxy.url` leads through."""
    proxy = Proxy(server_url)
    listening = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    parts = urlsplit(server_url)
    user = parts.netloc.rpartition("@")[0]
    proxy.url = parts._replace(
        netloc=f"{user}@127.0.0.1:{port}", query="sslmode=disable&gssencmode=disable"
    ).geturl()
    try:
        yield proxy
    finally:
        listening.close()
