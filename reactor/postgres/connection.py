"""Connections to PostgreSQL: how they are opened, bounded in time and checked, and what their errors mean.

A psycopg call is never cancelled. anyio delivers a cancellation again while psycopg asks the server to stop, and the
statement goes on: an UPDATE "cancelled" after 0.3 s committed a second later. So every call is shielded.
`statement_timeout` bounds it on the server, and a connection to a silent server is aborted: its socket is shut down.
"""

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, LiteralString, Protocol

import psycopg
from anyio import CancelScope
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from reactor.core.errors import DatabaseUnavailable

_CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_S = 30.0
"""How long the server lets one statement of the reactor run; a batch of 500 takes about 50 ms."""

_SILENCE_S = _STATEMENT_TIMEOUT_S + 5.0
"""A connection without an answer for so long is aborted: no statement takes so long."""

_DEDICATED_SILENCE_S = 10.0
"""The same for statements that wait for no lock and take about 50 ms."""

_SLICE_ROWS = 512
"""Other tasks run after this many rows of an answer; a claim or a settlement has fewer."""

# Both kinds are needed: keepalives notice a peer that vanished while idle, tcp_user_timeout one that vanished
# while data was on its way. Neither notices a middlebox that still acknowledges: the listener asks for answers.
_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": _CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "reactor",
}

_SESSION = f"""
    set statement_timeout = '{_STATEMENT_TIMEOUT_S:.0f}s';
    set lock_timeout = '10s';
    set idle_in_transaction_session_timeout = '10s';
    set synchronous_commit = on;
    set client_connection_check_interval = '1s';
"""


def connect(conninfo: str, *, application_name: str) -> psycopg.Connection:
    """Open one blocking autocommit connection. Raises psycopg.Error."""
    return psycopg.connect(conninfo, **(_OPTIONS | {"application_name": application_name}))


async def connect_async(conninfo: str, *, application_name: str = "reactor") -> psycopg.AsyncConnection[Any]:
    """Open one autocommit connection. Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(conninfo, **(_OPTIONS | {"application_name": application_name}))


@contextmanager
def connected(conninfo: str, *, application_name: str) -> Iterator[psycopg.Connection]:
    """Open one autocommit connection for a command. Raises DatabaseUnavailable, in one line, whatever fails."""
    try:
        conn = connect(conninfo, application_name=application_name)
    except psycopg.Error as error:
        raise unreachable(error) from error
    with conn:
        try:
            yield conn
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseUnavailable(
                f"{unavailable(error)}: run as reactor_worker, and migrate as the tables' owner"
            ) from error
        except psycopg.Error as error:
            raise unavailable(error) from error


def unavailable(error: Exception) -> DatabaseUnavailable:
    """Return the exception that says in one line, without secrets or values of rows, why the database can't be used."""
    reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    # libpq's own messages (refused, unknown host, wrong password) have no diag, and contain no password
    lines = [line.strip() for line in (reason or str(error)).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("Is the server running"))
    return DatabaseUnavailable(text.removeprefix("connection failed: ") or type(error).__name__)


def unreachable(error: Exception, named: str = "REACTOR_DATABASE_URL") -> DatabaseUnavailable:
    """Return `unavailable` for a connection that couldn't be opened; `named` is the setting to check."""
    return DatabaseUnavailable(f"{unavailable(error)}: check {named}, and that the server runs")


def abort(conn: psycopg.AsyncConnection[Any]) -> None:
    """Shut down the connection's socket, but leave it open: what waits for an answer raises OperationalError."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


async def _prepare(conn: psycopg.AsyncConnection[Any], *, waits_for_disk: bool = True) -> None:
    """Set up a new connection: settings and prepared statements, unless a transaction pooler is in between."""
    row = await (await conn.execute("select pg_backend_pid()")).fetchone()
    if row is not None and row[0] != conn.info.backend_pid:
        # another server process than at connect: settings would leak to other clients
        conn.prepare_threshold = None
        return
    await conn.execute(_SESSION)
    if not waits_for_disk:
        await conn.execute("set synchronous_commit = off")
    conn.prepare_threshold = 0


async def _run(
    conn: psycopg.AsyncConnection[Any],
    statement: LiteralString,
    parameters: Sequence[Any],
    silence_s: float = _SILENCE_S,
) -> list[Any]:
    watchdog = asyncio.get_running_loop().call_later(silence_s, abort, conn)
    try:
        cursor = await conn.execute(statement, parameters, binary=True)
        rows: list[Any] = []
        if cursor.description:
            while batch := await cursor.fetchmany(_SLICE_ROWS):
                rows += batch
                if len(batch) == _SLICE_ROWS:
                    await asyncio.sleep(0.001)  # a sweep's 50 000 rows would delay a notification by 50 ms
        return rows
    finally:
        watchdog.cancel()


class QueryRunner(Protocol):
    """Runs one statement at a time and returns its rows as tuples.

    `call` raises DatabaseUnavailable. It isn't cancelled once begun, and ends within 35 s on a connection. When one is
    dead, the statement is sent again on another: every statement of the reactor may be repeated.
    """

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]: ...


class ConnectionPool:
    """A `QueryRunner` with a small pool of connections, for everything that isn't urgent.

    It keeps one connection and makes up to `size` while they are needed at once. The pool uses its connections in
    turn, and one that was idle for a while answers twice as slowly: fewer are quicker.
    """

    def __init__(self, conninfo: str, *, size: int, named: str = "REACTOR_DATABASE_URL") -> None:
        """`named` is the setting that errors name as the source of `conninfo`."""
        self._conninfo = conninfo
        self._named = named
        self._pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]](
            conninfo,
            kwargs=_OPTIONS,
            min_size=1,
            max_size=size,
            open=False,
            timeout=_CONNECT_TIMEOUT_S,
            max_idle=30.0,
            reconnect_timeout=10.0,
            configure=_prepare,
        )

    async def open(self) -> None:
        """Open the pool after a trial connection. Raises DatabaseUnavailable."""
        try:
            # for its error: the pool's own only says that it timed out
            await (await connect_async(self._conninfo)).close()
            await self._pool.open(wait=True, timeout=_CONNECT_TIMEOUT_S)
        except (psycopg.Error, PoolTimeout) as error:
            await self.close()
            raise unreachable(error, self._named) from error

    async def close(self) -> None:
        with CancelScope(shield=True):
            await self._pool.close(timeout=2.0)

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; see `QueryRunner`."""
        with CancelScope(shield=True):
            for is_last in (False, False, True):
                try:
                    async with self._pool.connection() as conn:
                        return await _run(conn, statement, parameters)
                except psycopg.Error as error:
                    is_final = isinstance(error, (PoolTimeout, psycopg.errors.QueryCanceled))
                    if is_last or is_final or not isinstance(error, psycopg.OperationalError):
                        raise unavailable(error) from error
        raise AssertionError  # the last try returns or raises


class DedicatedConnection:
    """A `QueryRunner` with one connection of its own, for urgent statements: they never wait for a pool.

    The first call opens it, and the next one after it broke. For statements that wait for no lock: one that isn't
    answered in ten seconds is sent again on another connection, with the full time of a statement.
    """

    def __init__(self, conninfo: str, *, waits_for_disk: bool = True) -> None:
        """Unless `waits_for_disk`, a commit is answered before it is durable: a server that crashes may lose it."""
        self._conninfo = conninfo
        self._waits_for_disk = waits_for_disk
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with CancelScope(shield=True):
                await conn.close()

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; see `QueryRunner`."""
        with CancelScope(shield=True):
            async with self._lock:
                try:
                    if self._conn is not None and not self._conn.closed:
                        try:
                            return await _run(self._conn, statement, parameters, _DEDICATED_SILENCE_S)
                        except psycopg.OperationalError:
                            if not self._conn.closed:
                                raise
                    await self.close()
                    self._conn = await connect_async(self._conninfo)
                    await _prepare(self._conn, waits_for_disk=self._waits_for_disk)
                    return await _run(self._conn, statement, parameters)
                except psycopg.Error as error:
                    raise unavailable(error) from error
        raise AssertionError  # it has returned or raised
