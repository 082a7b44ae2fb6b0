"""Opens connections to PostgreSQL, limits the time of each statement, and translates errors.

A psycopg call is never cancelled, because its statement would continue: after a cancellation, psycopg asks the server
to stop, but anyio repeats the cancellation, which interrupts this request. An UPDATE that was cancelled after 0.3 s
committed a second later. So every call is shielded. `statement_timeout` limits the time of a statement; `abort` ends a
connection to a silent server.
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
"""The statement_timeout. A batch of 500 rows takes about 50 ms."""

_SILENCE_S = _STATEMENT_TIMEOUT_S + 5.0
"""A connection is aborted if a statement has no answer after this time, which is longer than statement_timeout."""

_DEDICATED_SILENCE_S = 10.0
"""The same limit for a DedicatedConnection, whose statements wait for no lock and take about 50 ms."""

_SLICE_ROWS = 512
"""Other tasks may run after this many rows of an answer. The answers to claims and settlements are shorter."""

# Keepalives detect a dead peer of an idle connection; tcp_user_timeout detects one while data is in transit. Neither
# detects a dead server behind a proxy that still acknowledges data, so the listener also sends requests to the server.
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
    """Open one autocommit connection for a command. Any psycopg error becomes DatabaseUnavailable with one line."""
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
    """Return an exception that says in one line why the database is unavailable, without secrets and values of rows."""
    reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    # messages of libpq (refused, unknown host, wrong password) have no diag, and contain no password
    lines = [line.strip() for line in (reason or str(error)).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("Is the server running"))
    return DatabaseUnavailable(text.removeprefix("connection failed: ") or type(error).__name__)


def unreachable(error: Exception, named: str = "REACTOR_DATABASE_URL") -> DatabaseUnavailable:
    """Return the exception for a connection that couldn't be opened; `named` is the setting to check."""
    return DatabaseUnavailable(f"{unavailable(error)}: check {named}, and that the server runs")


def abort(conn: psycopg.AsyncConnection[Any]) -> None:
    """Shut down the connection's socket: a call that waits for an answer raises OperationalError."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


async def _prepare(conn: psycopg.AsyncConnection[Any], *, waits_for_disk: bool = True) -> None:
    """Set up a new connection. Behind a transaction pooler, this only disables prepared statements."""
    row = await (await conn.execute("select pg_backend_pid()")).fetchone()
    if row is not None and row[0] != conn.info.backend_pid:
        # a transaction pooler: it has switched the server process, and settings would apply to other clients too
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
                    await asyncio.sleep(0.001)  # otherwise a sweep's 50 000 rows would delay a notification by 50 ms
        return rows
    finally:
        watchdog.cancel()


class QueryRunner(Protocol):
    """Runs one statement at a time and returns its rows as tuples.

    `call` raises DatabaseUnavailable. A started call isn't cancelled. If the connection breaks, or the server doesn't
    answer for 35 s, `call` sends the statement again on another connection, so a repetition must do no harm.
    """

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]: ...


class ConnectionPool:
    """A `QueryRunner` with a small pool of connections, for statements that aren't urgent.

    The pool keeps one connection open, and opens more, up to `size`, for concurrent calls. Few connections are faster:
    the pool uses its connections in turn, and a connection that was idle for a while takes twice as long to answer.
    """

    def __init__(self, conninfo: str, *, size: int, named: str = "REACTOR_DATABASE_URL") -> None:
        """`named` is the name of the setting with `conninfo`, for error messages."""
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
        """Open a trial connection, then the pool. Raises DatabaseUnavailable."""
        try:
            # a trial, because its error says what is wrong; the pool's error says only that it timed out
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
        raise AssertionError  # unreachable: the last try returns or raises


class DedicatedConnection:
    """A `QueryRunner` with one connection, for urgent statements: they never wait for a pool.

    The first call opens the connection, and the next call reopens a broken connection. Only for statements that wait
    for no lock. A statement without an answer after 10 s is sent again on a new connection, this time for up to 35 s.
    """

    def __init__(self, conninfo: str, *, waits_for_disk: bool = True) -> None:
        """`waits_for_disk` False: the server confirms a commit before it is on disk, and may lose it in a crash."""
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
        raise AssertionError  # unreachable
