"""The connection that LISTENs: what arrives is handed on in the same turn of the loop, and silence is noticed.

It is read by libpq itself, as the loop says that there is something: no task has to be woken first. psycopg's own
`notifies()` would hold the connection meanwhile, and nothing else could be sent on it.

What is sent is a bare Sync, the protocol's full stop. The server answers it at once, without beginning a transaction,
so that a connection can be asked for a sign of life as often as one likes: it costs the database nothing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import psycopg
from anyio import CancelScope
from psycopg import sql

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres.connection import PATIENCE, abort, unavailable

ASK_EVERY_S = 3.0
"""How often the server is asked for a sign of life; the connection is given up when none has come by the next time."""

_TURN_S = 0.002
"""How long notifications are taken in before others get their turn."""


class NotificationSource(Protocol):
    """Whatever hears notifications, one connection after another."""

    async def hear(self, live: Callable[[], None], heard: Callable[[str, str], None]) -> None:
        """Connect, LISTEN, call `live`, then call `heard(channel, payload)` for each notification, until it breaks.

        Whatever commits after `live` is heard. Both are called between reads and must neither wait nor raise:
        leaving the loop would lose the rest of what has arrived. Raises DatabaseUnavailable when the connection
        can't be had, is lost, or is severed; never returns.
        """

    def abort(self) -> None:
        """End the connection at once; `hear` raises."""


class Listener:
    """A connection of its own that LISTENs and does nothing else. A `NotificationSource`."""

    def __init__(self, conninfo: str, channels: Sequence[str]) -> None:
        self._conninfo = conninfo
        self._channels = channels
        self._conn: psycopg.AsyncConnection[Any] | None = None

    async def hear(self, live: Callable[[], None], heard: Callable[[str, str], None]) -> None:
        """Hear on one connection; see `NotificationSource`."""
        try:
            with CancelScope(shield=True):
                conn = self._conn = await psycopg.AsyncConnection.connect(
                    self._conninfo, autocommit=True, **(PATIENCE | {"application_name": "reactor-listen"})
                )
                await self._listen(conn)
            reader = _Reader(conn, heard)
            live()
            await reader.read()
        except psycopg.Error as error:
            raise unavailable(error) from error
        finally:
            if self._conn is not None:
                with CancelScope(shield=True):
                    await self._conn.close()
                self._conn = None

    async def _listen(self, conn: psycopg.AsyncConnection[Any]) -> None:
        row = await (await conn.execute("select pg_is_in_recovery()")).fetchone()
        if row is not None and row[0]:
            raise DatabaseUnavailable("the server is a standby, which can't LISTEN: point the URL at the primary")
        with suppress(psycopg.Error):  # a pooler in between may refuse them
            # seen from the server: a reactor that stands still must not fill the notification queue
            await conn.execute("set tcp_user_timeout = 10000; set tcp_keepalives_idle = 10")
            await conn.execute("set idle_session_timeout = 0")
        for channel in self._channels:
            await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def abort(self) -> None:
        if self._conn is not None:
            abort(self._conn)


class _Reader:
    """Takes in what arrives on a connection, until it breaks or falls silent."""

    def __init__(self, conn: psycopg.AsyncConnection[Any], heard: Callable[[str, str], None]) -> None:
        self._conn = conn.pgconn
        self._encoding = conn.info.encoding
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._broken: asyncio.Future[None] = self._loop.create_future()
        self._is_alive = True
        self._is_asked = False
        self._is_reading = False

    async def read(self) -> None:
        """Read until nothing can be heard any more. Raises psycopg.Error or DatabaseUnavailable; never returns."""
        self._conn.enter_pipeline_mode()  # the only one in which a Sync is sent by itself
        self._descriptor = self._conn.socket
        self._loop.add_reader(self._descriptor, self._take_turn)
        self._timer = self._loop.call_later(ASK_EVERY_S, self._ask)
        self._is_reading = True
        try:
            self._take_turn()  # what came together with the answer to LISTEN wakes nobody
            await self._broken
        finally:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._timer.cancel()
            self._loop.remove_reader(self._descriptor)

    def _take_turn(self) -> None:
        """Take in what has arrived. The rest of a flood has its turn after those whom it wakes."""
        self._is_alive = True
        began = time.monotonic()
        try:
            while self._take_some() and time.monotonic() - began < _TURN_S:
                pass
        except Exception as error:  # noqa: BLE001  # raised where it is awaited
            self._break(error)

    def _take_some(self) -> bool:
        """Hand on what libpq reads at once; return whether that was anything."""
        self._conn.consume_input()
        some = False
        while (notification := self._conn.notifies()) is not None:
            some = True
            channel, payload = notification.relname, notification.extra
            self._heard(channel.decode(self._encoding, "replace"), payload.decode(self._encoding, "replace"))
        if self._is_asked and not self._conn.is_busy():
            self._conn.get_result()  # the answer to our Sync; left there, it would stand before all that follows
            self._is_asked = False
        return some

    def _ask(self) -> None:
        """Ask for an answer, or give up when the last one is still owed and nothing else has come meanwhile.

        Whatever could be read by now has been: the loop reads before it looks at its timers.
        """
        self._timer = self._loop.call_later(ASK_EVERY_S, self._ask)
        if self._is_asked and not self._is_alive:
            self._break(DatabaseUnavailable(f"the server has been silent for {ASK_EVERY_S:g} s"))
            return
        self._is_alive = False
        if not self._is_asked:
            self._is_asked = True
            try:
                self._conn.pipeline_sync()
            except psycopg.Error as error:
                self._break(error)

    def _break(self, error: Exception) -> None:
        self._stop_reading()  # at once: libpq has closed what broke, and the next socket to be opened has its number
        if not self._broken.done():
            self._broken.set_exception(error)
