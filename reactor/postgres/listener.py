"""Listens on a connection, and passes each notification to its handler as soon as it arrives.

The event loop reads libpq directly when the socket is readable, so no task has to wake up first. psycopg's `notifies()`
would occupy the connection, and no Sync could be sent on it. A Sync is a protocol message that the server answers
immediately, without a transaction. One is sent every few seconds, to detect a server that doesn't answer any more.
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
from reactor.postgres.connection import abort
from reactor.postgres.session import AsyncSession
from reactor.postgres.sqlstate import CALL_ERRORS, database_failure

SYNC_INTERVAL_S = 3.0
"""Seconds between two Syncs. If nothing is received between them, the connection counts as lost."""

_READ_FOR_S = 0.002
"""Maximum time to read notifications before other tasks run."""

Handlers = Mapping[str, Callable[[str], None]]
"""Maps each channel to the function to call with the text of each notification."""


class NotificationSource(Protocol):
    """Receives notifications. Each call of `listen` opens a new connection."""

    async def listen(self, on_live: Callable[[], None], handlers: Handlers) -> None:
        """Connect, LISTEN on the channels of `handlers`, call `on_live`, then a handler for each notification.

        Every notification that commits after the call of `on_live` is received. `on_live` and handlers must neither
        wait nor raise, or later notifications would be lost. Never returns: raises a DatabaseFailure when the
        connection can't be opened, is lost, or is aborted.
        """

    def abort(self) -> None:
        """End the connection immediately, so that `listen` raises."""


class Listener:
    """A `NotificationSource` with a connection that is used only to listen."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self.connection: psycopg.AsyncConnection[Any] | None = None
        """The open connection; None if there is none."""

    async def listen(self, on_live: Callable[[], None], handlers: Handlers) -> None:
        """Listen on a new connection; see `NotificationSource`."""
        try:
            with CancelScope(shield=True):
                conn = self.connection = await AsyncSession.connect(self._conninfo, application_name="reactor-listen")
                await _start_listening(conn, handlers)
            reader = Reader(conn, handlers)
            on_live()
            await reader.read()
        except CALL_ERRORS as error:
            raise database_failure(error) from error
        finally:
            if self.connection is not None:
                with CancelScope(shield=True):
                    await self.connection.close()
                self.connection = None

    def abort(self) -> None:
        if self.connection is not None:
            abort(self.connection)


async def _start_listening(conn: psycopg.AsyncConnection[Any], handlers: Handlers) -> None:
    with suppress(psycopg.Error):  # a pooler may refuse these settings
        # the server disconnects a reactor that has stopped reading, before the notification queue is full
        await conn.execute("set tcp_user_timeout = 10000; set tcp_keepalives_idle = 10; set idle_session_timeout = 0")
    for channel in handlers:
        await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))


class Reader:
    """Reads notifications from a connection until the connection breaks or the server stops answering."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], handlers: Handlers) -> None:
        self._conn = conn.pgconn
        self._encoding = conn.info.encoding
        self._handlers = {channel.encode(): handler for channel, handler in handlers.items()}
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._has_received = True
        self.awaits_sync = False
        """Whether a Sync was sent and has no answer yet."""
        self._is_reading = False

    async def read(self) -> None:
        """Read until the connection is lost. Raises psycopg.Error or DatabaseUnavailable."""
        self._conn.enter_pipeline_mode()  # a Sync can be sent only in this mode
        self._descriptor = self._conn.socket
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._timer = self._loop.call_later(SYNC_INTERVAL_S, self.send_sync)
        self._is_reading = True
        try:
            self._on_readable()  # what arrived with the answer to LISTEN is in libpq's buffer, not in the socket
            await self._broken
        finally:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._timer.cancel()
            self._loop.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        """Read for up to 2 ms. What is left is read after other tasks have run."""
        self._has_received = True
        began = time.monotonic()
        try:
            while self.read_once() and time.monotonic() - began < _READ_FOR_S:
                pass
        except Exception as error:  # noqa: BLE001  # raised by `read`
            self._break(error)

    def read_once(self) -> bool:
        """Pass on the notifications that libpq can read without waiting; return whether there were any."""
        self._conn.consume_input()
        has_read = False
        while (notification := self._conn.notifies()) is not None:
            has_read = True
            if (handler := self._handlers.get(notification.relname)) is not None:
                handler(notification.extra.decode(self._encoding, "replace"))
        if self.awaits_sync and not self._conn.is_busy():
            self._conn.get_result()  # take the answer to the Sync: otherwise later answers can't be read
            self.awaits_sync = False
        return has_read

    def send_sync(self) -> None:
        """Send a Sync. Break the connection if the last Sync has no answer and nothing was received since.

        The event loop reads before it runs timers, so everything that has arrived was read.
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
        self._stop_reading()  # immediately: libpq has closed the socket, and a new socket may get the same descriptor
        if not self._broken.done():
            self._broken.set_exception(error)
