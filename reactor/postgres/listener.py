"""The connection that LISTENs: each notification is passed on in the loop's turn in which it arrives.

libpq is read directly when the socket is readable, so no task has to wake up first. psycopg's own `notifies()` would
occupy the connection, and nothing else could be sent on it. Every few seconds a bare Sync message is sent, which the
server answers at once and without a transaction: a server that has become silent is noticed.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import psycopg
from anyio import CancelScope
from psycopg import sql

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres.connection import abort, connect_async, unavailable

SYNC_INTERVAL_S = 3.0
"""How often a Sync is sent. Without an answer until the next one, the connection is lost."""

_READ_FOR_S = 0.002
"""How long notifications are read before other tasks run."""

Handlers = Mapping[str, Callable[[str], None]]
"""For each channel, the function that gets a notification's text."""


class NotificationSource(Protocol):
    """Receives notifications, one connection after another."""

    async def listen(self, on_live: Callable[[], None], handlers: Handlers) -> None:
        """Connect, LISTEN on the channels, call `on_live`, then the channel's handler for each notification.

        What commits after `on_live` is received. Both are called between reads and must neither wait nor raise, or the
        rest of a batch would be lost. Never returns: raises DatabaseUnavailable when the connection can't be opened,
        is lost, or is aborted.
        """

    def abort(self) -> None:
        """End the connection at once; `listen` raises."""


class Listener:
    """A `NotificationSource` with a connection of its own that does nothing else."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self.connection: psycopg.AsyncConnection[Any] | None = None
        """The open connection; None while there is none."""

    async def listen(self, on_live: Callable[[], None], handlers: Handlers) -> None:
        """Listen on one connection; see `NotificationSource`."""
        try:
            with CancelScope(shield=True):
                conn = self.connection = await connect_async(self._conninfo, application_name="reactor-listen")
                await _start_listening(conn, handlers)
            reader = Reader(conn, handlers)
            on_live()
            await reader.read()
        except psycopg.Error as error:
            raise unavailable(error) from error
        finally:
            if self.connection is not None:
                with CancelScope(shield=True):
                    await self.connection.close()
                self.connection = None

    def abort(self) -> None:
        if self.connection is not None:
            abort(self.connection)


async def _start_listening(conn: psycopg.AsyncConnection[Any], handlers: Handlers) -> None:
    row = await (await conn.execute("select pg_is_in_recovery()")).fetchone()
    if row is not None and row[0]:
        raise DatabaseUnavailable("the server is a standby, which can't LISTEN: point the URL at the primary")
    with suppress(psycopg.Error):  # a pooler in between may refuse these settings
        # the server drops a reactor that has stopped reading, before it fills the notification queue
        await conn.execute("set tcp_user_timeout = 10000; set tcp_keepalives_idle = 10")
        await conn.execute("set idle_session_timeout = 0")
    for channel in handlers:
        await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))


class Reader:
    """Reads notifications from a connection until it breaks or the server falls silent."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], handlers: Handlers) -> None:
        self._conn = conn.pgconn
        self._encoding = conn.info.encoding
        self._handlers = {channel.encode(): handler for channel, handler in handlers.items()}
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._has_received = True
        self.awaits_sync = False
        """A Sync was sent and has no answer yet."""
        self._is_reading = False

    async def read(self) -> None:
        """Read until the connection is lost. Raises psycopg.Error or DatabaseUnavailable."""
        self._conn.enter_pipeline_mode()  # only in this mode can a Sync be sent
        self._descriptor = self._conn.socket
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._timer = self._loop.call_later(SYNC_INTERVAL_S, self.send_sync)
        self._is_reading = True
        try:
            self._on_readable()  # what arrived with the answer to LISTEN makes nothing readable
            await self._broken
        finally:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._timer.cancel()
            self._loop.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        """Read for 2 ms. The rest of a flood is read after other tasks have run."""
        self._has_received = True
        began = time.monotonic()
        try:
            while self.read_once() and time.monotonic() - began < _READ_FOR_S:
                pass
        except Exception as error:  # noqa: BLE001  # raised by `read`
            self._break(error)

    def read_once(self) -> bool:
        """Pass on what libpq can read without waiting; return whether a notification was read."""
        self._conn.consume_input()
        has_read = False
        while (notification := self._conn.notifies()) is not None:
            has_read = True
            if (handler := self._handlers.get(notification.relname)) is not None:
                handler(notification.extra.decode(self._encoding, "replace"))
        if self.awaits_sync and not self._conn.is_busy():
            self._conn.get_result()  # take the answer to the Sync, or it would block what follows
            self.awaits_sync = False
        return has_read

    def send_sync(self) -> None:
        """Send a Sync, or give up if the last one has no answer and nothing else was received since.

        The loop reads before it runs timers, so everything that has arrived was read.
        """
        self._timer = self._loop.call_later(SYNC_INTERVAL_S, self.send_sync)
        if self.awaits_sync and not self._has_received:
            self._break(DatabaseUnavailable(f"the server has been silent for {SYNC_INTERVAL_S:g} s"))
            return
        self._has_received = False
        if not self.awaits_sync:
            self.awaits_sync = True
            try:
                self._conn.pipeline_sync()
            except psycopg.Error as error:
                self._break(error)

    def _break(self, error: Exception) -> None:
        self._stop_reading()  # at once: libpq has closed the socket, and the next one may get its number
        if not self._broken.done():
            self._broken.set_exception(error)
