"""Opens connections to PostgreSQL, limits the time of each statement, and translates errors.

A psycopg call is never cancelled, because its statement would continue: after a cancellation, psycopg asks the server
to stop, but anyio repeats the cancellation, which interrupts this request. An UPDATE that was cancelled after 0.3 s
committed a second later. So every call is shielded. `statement_timeout` limits the time of a statement; `abort` ends a
connection to a silent server.
"""

import asyncio
import codecs
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, LiteralString, Protocol

import psycopg
from anyio import CancelScope
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres.session import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S, AsyncSession, Session, connect
from reactor.postgres.sqlstate import CALL_ERRORS, database_failure, is_unstorable_text, is_unusable

_SILENCE_S: Final = STATEMENT_TIMEOUT_S + 5.0
"""A connection is aborted if a statement has no answer after this time, which is longer than statement_timeout."""

_DEDICATED_SILENCE_S: Final = 10.0
"""The same limit for a DedicatedConnection, whose statements wait for no lock and take about 50 ms."""

_SLICE_ROWS: Final = 512
"""Other tasks may run after this many rows of an answer. The answers to claims and settlements are shorter."""

_CODECS: Final[Mapping[str, str]] = {"SQL_ASCII": "utf-8", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}
"""Python's codecs of the server encodings that Python doesn't find by the server's name."""


@contextmanager
def connected(conninfo: str, *, application_name: str, needs_writes: bool = False) -> Iterator[Session]:
    """Open one autocommit connection for a command. Any psycopg error becomes a DatabaseFailure with one line."""
    try:
        conn = connect(conninfo, application_name=application_name, needs_writes=needs_writes)
    except CALL_ERRORS as error:
        raise unreachable(error) from error
    with conn:
        try:
            yield conn
        except CALL_ERRORS as error:
            raise database_failure(error) from error


def unreachable(error: Exception, named: str = "REACTOR_DATABASE_URL") -> DatabaseUnavailable:
    """Return the exception for a connection that couldn't be opened; `named` is the setting to check."""
    return DatabaseUnavailable(f"{database_failure(error)}: check {named}, and that the server runs")


def abort(conn: psycopg.AsyncConnection[Any]) -> None:
    """Shut down the connection's socket: a call that waits for an answer raises OperationalError."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


async def _run(
    conn: AsyncSession,
    statement: LiteralString,
    parameters: Sequence[Any],
    *,
    silence_s: float = _SILENCE_S,
    replaces_text: bool = True,
) -> list[Any]:
    watchdog = asyncio.get_running_loop().call_later(silence_s, abort, conn)
    try:
        try:
            cursor = await conn.run(statement, parameters)
        except (psycopg.DataError, UnicodeError) as error:
            if not (replaces_text and is_unstorable_text(error)):
                raise
            cursor = await conn.run(statement, _storable(parameters, conn))
        rows: list[Any] = []
        if cursor.description:
            while batch := await cursor.fetchmany(_SLICE_ROWS):
                rows += batch
                if len(batch) == _SLICE_ROWS:
                    await asyncio.sleep(0.001)  # otherwise a sweep's 50 000 rows would delay a notification by 50 ms
    except CALL_ERRORS as error:
        if is_unusable(error):
            await conn.close()
        raise
    else:
        return rows
    finally:
        watchdog.cancel()


def _storable(parameters: Any, conn: AsyncSession) -> Any:
    """Return the parameters with `?` for each character that the database can't store."""
    if isinstance(parameters, str):
        name = conn.info.parameter_status("server_encoding") or "UTF8"
        try:
            codec = codecs.lookup(_CODECS.get(name, name.replace("WIN", "cp"))).name
        except LookupError:
            codec = "ascii"
        return parameters.replace("\0", "?").encode(codec, "replace").decode(codec)
    if isinstance(parameters, list | tuple):
        return type(parameters)(_storable(each, conn) for each in parameters)
    return parameters


class QueryRunner(Protocol):
    """Runs one statement at a time and returns its rows as tuples.

    `call` raises DatabaseUnavailable, DatabaseForbidden or DatabaseRefused, and nothing else. A started call isn't
    cancelled. If the connection breaks, or the server doesn't answer for 35 s, `call` sends the statement again on
    another connection, so a repetition must do no harm. Text that the database can't store is replaced.
    """

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]: ...


class ConnectionPool:
    """A `QueryRunner` with a small pool of connections, for statements that aren't urgent.

    The pool keeps one connection open, and opens more, up to `size`, for concurrent calls. Few connections are faster:
    the pool uses its connections in turn, and a connection that was idle for a while takes twice as long to answer.
    """

    def __init__(
        self, conninfo: str, *, size: int, named: str = "REACTOR_DATABASE_URL", replaces_text: bool = True
    ) -> None:
        """`named` is the name of the setting with `conninfo`, for error messages.

        `replaces_text` False: a call with text that the database can't store raises DatabaseRefused.
        """
        self._replaces_text = replaces_text
        self._conninfo = conninfo
        self._named = named
        self._last_failure: Exception | None = None
        """Why the last connection couldn't be opened."""
        self._pool = AsyncConnectionPool[AsyncSession](
            conninfo,
            connection_class=AsyncSession,
            kwargs={"on_failure": self._on_failure},
            min_size=1,
            max_size=size,
            open=False,
            timeout=CONNECT_TIMEOUT_S,
            max_idle=30.0,
            reconnect_timeout=CONNECT_TIMEOUT_S,
        )

    async def open(self) -> None:
        """Open a trial connection, then the pool. Raises DatabaseUnavailable."""
        try:
            # a trial, because its error says what is wrong; the pool's error says only that it timed out
            await (await AsyncSession.connect(self._conninfo)).close()
            await self._pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
        except (*CALL_ERRORS, PoolTimeout) as error:
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
                        return await _run(conn, statement, parameters, replaces_text=self._replaces_text)
                except PoolTimeout as error:
                    raise database_failure(self._last_failure or error) from error
                except CALL_ERRORS as error:
                    if is_last or not _is_worth_repeating(error):
                        raise database_failure(error) from error
        raise AssertionError  # unreachable: the last try returns or raises

    def _on_failure(self, error: Exception) -> None:
        self._last_failure = error


def _is_worth_repeating(error: Exception) -> bool:
    """Return whether the same statement may succeed at once on another connection."""
    if is_unusable(error):
        return True
    failure = database_failure(error)
    return isinstance(failure, DatabaseUnavailable) and not failure.is_busy


class DedicatedConnection:
    """A `QueryRunner` with one connection, for urgent statements: they never wait for a pool.

    The first call opens the connection, and the next call reopens a broken connection. Only for statements that wait
    for no lock. A statement without an answer after 10 s is sent again on a new connection, this time for up to 35 s.
    """

    def __init__(self, conninfo: str, *, waits_for_disk: bool = True) -> None:
        """`waits_for_disk` False: the server confirms a commit before it is on disk, and may lose it in a crash."""
        self._conninfo = conninfo
        self._waits_for_disk = waits_for_disk
        self._conn: AsyncSession | None = None
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
                            return await _run(self._conn, statement, parameters, silence_s=_DEDICATED_SILENCE_S)
                        except CALL_ERRORS:
                            if not self._conn.closed:
                                raise
                    await self.close()
                    self._conn = await AsyncSession.connect(self._conninfo, waits_for_disk=self._waits_for_disk)
                    return await _run(self._conn, statement, parameters)
                except CALL_ERRORS as error:
                    raise database_failure(error) from error
        raise AssertionError  # unreachable
