"""Connections to PostgreSQL: how they are opened, bounded in time, proven, and what their errors mean.

A psycopg call is never cancelled. anyio delivers cancellation again while psycopg is asking the server to stop, and
the statement goes on: an UPDATE "cancelled" after 0.3 s was seen to commit a second later. So every call is shielded;
`statement_timeout` bounds it on the server, and a server that went silent is given up by shutting down the socket.
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

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 30.0
"""What the server allows one statement of the reactor; a batch of 500 takes some 50 ms."""

_SILENCE_S = STATEMENT_TIMEOUT_S + 5.0
"""After how long without an answer a connection is given up: no statement of ours takes so long."""

_HURRIED_SILENCE_S = 10.0
"""The same for statements that wait for no lock and take some 50 ms: two hundred times that."""

_AT_ONCE = 512
"""Rows that are made of an answer before others have the loop for a moment: more than a claim or a settlement has."""

_BREATH_S = 0.001

# Both kinds are needed: keepalives notice a peer that vanished while idle, tcp_user_timeout one that vanished
# while data was on its way. Neither notices a middlebox that still acknowledges: the listener asks for answers.
PATIENCE: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

_SESSION = f"""
    set statement_timeout = '{STATEMENT_TIMEOUT_S:.0f}s';
    set lock_timeout = '10s';
    set idle_in_transaction_session_timeout = '10s';
    set synchronous_commit = on;
    set client_connection_check_interval = '1s';
"""


def connect(conninfo: str, *, application_name: str) -> psycopg.Connection:
    """Open one blocking autocommit connection. Raises psycopg.Error."""
    return psycopg.connect(conninfo, autocommit=True, **(PATIENCE | {"application_name": application_name}))


@contextmanager
def connected(conninfo: str, *, application_name: str) -> Iterator[psycopg.Connection]:
    """Open one autocommit connection for a command. Raises DatabaseUnavailable with one clear line, whatever fails."""
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
    """Say in one line, without secrets or values of rows, why the database can't be used."""
    reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    # libpq's own words (refused, unknown host, wrong password) come without a diag; they name no password
    lines = [line.strip() for line in (reason or str(error)).splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith("Is the server running"))
    return DatabaseUnavailable(said.removeprefix("connection failed: ") or type(error).__name__)


def unreachable(error: Exception, named: str = "REACTOR_DATABASE_URL") -> DatabaseUnavailable:
    """As `unavailable`, for who couldn't connect: `named` is the setting to check."""
    return DatabaseUnavailable(f"{unavailable(error)}: check {named}, and that the server runs")


def abort(conn: psycopg.AsyncConnection[Any]) -> None:
    """End whatever waits on the connection, at once: shut its socket down under it.

    The file descriptor stays psycopg's own; what waits on it wakes up with an OperationalError.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


async def _prepare(conn: psycopg.AsyncConnection[Any], *, waits_for_disk: bool = True) -> None:
    """Make a new connection ours: settings and prepared statements, unless a transaction pooler sits between."""
    row = await (await conn.execute("select pg_backend_pid()")).fetchone()
    if row is not None and row[0] != conn.info.backend_pid:
        # The server process isn't the one that answered at connect: settings would leak to other clients.
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
            while some := await cursor.fetchmany(_AT_ONCE):
                rows += some
                if len(some) == _AT_ONCE:
                    await asyncio.sleep(_BREATH_S)  # a sweep's 50 000 would keep a notification waiting for 50 ms
        return rows
    finally:
        watchdog.cancel()


_CONNECT: dict[str, Any] = {
    **PATIENCE,
    "autocommit": True,
    "application_name": "reactor",
}


class QueryRunner(Protocol):
    """Whatever runs one statement at a time and returns its rows as tuples.

    `call` raises DatabaseUnavailable. It is never cancelled once begun, and bounded by STATEMENT_TIMEOUT_S on the
    server and a little more here. When the connection turns out to be dead the statement is sent again on another:
    every statement of ours bears being repeated.
    """

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]: ...


class ConnectionPool:
    """A small pool of connections, for everything that isn't in a hurry. A `QueryRunner`.

    It keeps one connection and makes up to `size` while they are needed at once. The pool hands out its connections
    in turns, and one that wasn't used for a while answers twice as slowly: fewer are quicker.
    """

    def __init__(self, conninfo: str, *, size: int, named: str = "REACTOR_DATABASE_URL") -> None:
        """`named` is what an error calls the place where `conninfo` came from."""
        self._conninfo = conninfo
        self._named = named
        self._pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]](
            conninfo,
            kwargs=_CONNECT,
            min_size=1,
            max_size=size,
            open=False,
            timeout=CONNECT_TIMEOUT_S,
            max_idle=30.0,
            reconnect_timeout=10.0,
            configure=_prepare,
        )

    async def open(self) -> None:
        """Open the pool and prove one connection. Raises DatabaseUnavailable."""
        try:
            # tried first by itself, for its error: a pool only ever says that it timed out
            probe = await psycopg.AsyncConnection.connect(self._conninfo, **_CONNECT)
            await probe.close()
            await self._pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
        except (psycopg.Error, PoolTimeout) as error:
            await self.close()
            raise unreachable(error, self._named) from error

    async def close(self) -> None:
        with CancelScope(shield=True):
            await self._pool.close(timeout=2.0)

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; see `QueryRunner`."""
        with CancelScope(shield=True):
            for last in (False, False, True):
                try:
                    async with self._pool.connection() as conn:
                        return await _run(conn, statement, parameters)
                except (psycopg.OperationalError, psycopg.errors.DeadlockDetected) as error:
                    if last or isinstance(error, (PoolTimeout, psycopg.errors.QueryCanceled)):
                        raise unavailable(error) from error
                except psycopg.Error as error:
                    raise unavailable(error) from error
        raise AssertionError  # the last try returns or raises


class DedicatedConnection:
    """One connection that is always ours, for what is in a hurry: no pool stands before the statement. A `QueryRunner`.

    Opened by its first call, and again after it broke. For statements that wait for no lock: one that isn't answered in
    ten seconds is sent again on another connection, which has all the time that a statement may take.
    """

    def __init__(self, conninfo: str, *, waits_for_disk: bool = True) -> None:
        """Unless `waits_for_disk`, a commit is answered before it is durable: a server that crashes may forget it."""
        self._conninfo = conninfo
        self._waits_for_disk = waits_for_disk
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with CancelScope(shield=True):
                await conn.close()

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; see `QueryRunner`."""
        with CancelScope(shield=True):
            async with self._turn:
                try:
                    if self._conn is not None:
                        try:
                            return await _run(self._conn, statement, parameters, _HURRIED_SILENCE_S)
                        except psycopg.OperationalError:
                            if not self._conn.closed:
                                raise
                            await self.close()
                    self._conn = await psycopg.AsyncConnection.connect(self._conninfo, **_CONNECT)
                    await _prepare(self._conn, waits_for_disk=self._waits_for_disk)
                    return await _run(self._conn, statement, parameters)
                except psycopg.Error as error:
                    if self._conn is not None and self._conn.closed:
                        await self.close()
                    raise unavailable(error) from error
        raise AssertionError  # it has returned or raised
