"""Opens every connection to PostgreSQL, and sets what the reactor relies on (reactor/README.md, decision 45).

A database, a role, a URL or a variable such as PGOPTIONS may set anything: another DateStyle, a statement_timeout of
1 ms, read-only transactions. So each new connection sets its own values. Behind a pooler, they would apply to other
clients too, and not to the next statement; there, each call is a transaction that begins with these settings.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg import sql

from reactor.core.errors import TAKES_NO_WRITES
from reactor.postgres.sqlstate import ServerReadOnly

CONNECT_TIMEOUT_S: Final = 5
STATEMENT_TIMEOUT_S: Final = 30.0
"""The statement_timeout. A batch of 500 rows takes about 50 ms."""

# Keepalives detect a dead peer of an idle connection, tcp_user_timeout a dead peer while data is in transit. Neither
# detects a dead server behind a proxy that still acknowledges, so the listener also requests answers.
_OPTIONS: Final[Mapping[str, Any]] = {
    "autocommit": True,
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "UTF8",  # sent as the connection is opened; poolers accept it
}

_SETTINGS: Final[Mapping[str, str]] = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    "search_path": "pg_catalog, pg_temp",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "row_security": "on",  # `off`: a statement fails if a policy would filter its rows
    "synchronous_commit": "on",
}

_SESSION_SETTINGS: Final[Mapping[str, str]] = {
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "idle_session_timeout": "0",
    "client_connection_check_interval": "1s",
}
"""Settings that would have no effect in a transaction that has begun."""

_TRANSACTION_TIMEOUT_SINCE = 170000
_TRIES = 10
"""Maximum number of tries to set up a connection whose own limits, such as 1 ms, end the first statements."""

_CUT_SHORT: Final = frozenset({"57014", "25P04", "57P05"})
"""SQLSTATEs of a statement that a time limit of the database or role ended, before the reactor could set its own."""

_PROTOCOL_VIOLATION: Final = "08P01"

_BEGIN: LiteralString = "begin isolation level read committed read write"

_IDENTITY: LiteralString = "select pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery()"


def _timeouts(server_version: int, *, is_local: bool) -> list[sql.Composed]:
    """Return the first statements of a session or transaction: they remove limits that would end the next ones."""
    limits = {"statement_timeout": f"{STATEMENT_TIMEOUT_S:.0f}s"}
    if server_version >= _TRANSACTION_TIMEOUT_SINCE:
        limits["transaction_timeout"] = "0"
    words = sql.SQL("set local {} = {}" if is_local else "set {} = {}")
    return [words.format(sql.Identifier(name), value) for name, value in limits.items()]


def _set_all(settings: Mapping[str, str], *, is_local: bool) -> sql.Composed:
    """Return one statement that applies these settings to the session or to the transaction."""
    one = sql.SQL("pg_catalog.set_config({}, {}, {})")
    return sql.SQL("select ") + sql.SQL(", ").join(
        [one.format(name, text, is_local) for name, text in settings.items()]
    )


def _statements(server_version: int, *, is_local: bool, waits_for_disk: bool = True) -> list[sql.Composed]:
    settings = _SETTINGS if is_local else {**_SETTINGS, **_SESSION_SETTINGS}
    if not waits_for_disk:
        settings = {**settings, "synchronous_commit": "off"}
    return [*_timeouts(server_version, is_local=is_local), _set_all(settings, is_local=is_local)]


class _Way(Enum):
    """How to set up a connection."""

    USUAL = auto()

    CAREFUL = auto()
    """A time limit of the database ended the first query: remove the limits before."""

    WITHOUT_TRANSACTIONS = auto()
    """A pooler in statement mode refuses transactions: send each statement as it is, with the database's settings."""


class Session(psycopg.Connection[Any]):
    """A blocking connection, for a command."""

    is_pooled = False
    """True behind a pooler that may give the next statement to another process of the server."""

    way: _Way

    def set_up(self, *, needs_writes: bool) -> None:
        """Set the session's settings. Raises ServerReadOnly for a standby if the command needs writes."""
        if self.way is _Way.CAREFUL:
            self.execute("begin")
            for each in _timeouts(self.info.server_version, is_local=True):
                self.execute(each)
        row = self.execute(_IDENTITY).fetchone()
        if self.way is _Way.CAREFUL:
            self.execute("commit")
        self.is_pooled = _examine(row, self.info.backend_pid, needs_writes=needs_writes)
        if self.is_pooled and self.way is not _Way.WITHOUT_TRANSACTIONS:
            self.execute("begin")
            self.execute("commit")
        for each in () if self.is_pooled else _statements(self.info.server_version, is_local=False):
            self.execute(each)

    def run(self, statement: LiteralString | sql.Composed, parameters: Any = None) -> psycopg.Cursor[Any]:
        """Execute one statement with the reactor's settings."""
        is_inside = self.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        if not self.is_pooled or is_inside or self.way is _Way.WITHOUT_TRANSACTIONS:
            return self.execute(statement, parameters)
        self.execute(_BEGIN)
        try:
            for each in _statements(self.info.server_version, is_local=True):
                self.execute(each)
            cursor = self.execute(statement, parameters)
            self.execute("commit")
        except psycopg.Error:
            with suppress(psycopg.Error):
                self.rollback()
            raise
        return cursor


class AsyncSession(psycopg.AsyncConnection[Any]):
    """A connection of the engine or of the client."""

    is_pooled = False
    """True behind a pooler that may give the next statement to another process of the server."""

    way: _Way

    @classmethod
    async def connect(  # type: ignore[override]  # the pool calls it with these arguments
        cls,
        conninfo: str = "",
        *,
        application_name: str = "reactor",
        waits_for_disk: bool = True,
        on_failure: Callable[[Exception], None] = lambda _error: None,
        **options: Any,
    ) -> Self:
        """Open and set up a connection to a server that takes writes. `on_failure` gets the error before it is raised.

        `waits_for_disk` False: the server confirms a commit before it is on disk, and may lose it in a crash.
        Raises psycopg.Error.
        """
        way = _Way.USUAL
        try:
            for tries_left in reversed(range(_TRIES)):
                conn = await super().connect(conninfo, **{**_OPTIONS, **options, "application_name": application_name})
                conn.way = way
                try:
                    await conn.set_up(waits_for_disk=waits_for_disk)
                except psycopg.Error as error:
                    await conn.close()
                    other_way = _other_way(error, is_pooled=conn.is_pooled)
                    if not tries_left or other_way is None:
                        raise
                    way = other_way
                else:
                    return conn
        except psycopg.Error as error:
            on_failure(error)
            raise
        raise AssertionError  # unreachable: the last try returns or raises

    async def set_up(self, *, waits_for_disk: bool) -> None:
        """Set the session's settings. Raises ServerReadOnly for a standby."""
        if self.way is _Way.CAREFUL:
            await self.execute("begin")
            for each in _timeouts(self.info.server_version, is_local=True):
                await self.execute(each)
        row = await (await self.execute(_IDENTITY)).fetchone()
        if self.way is _Way.CAREFUL:
            await self.execute("commit")
        self.is_pooled = _examine(row, self.info.backend_pid)
        if self.is_pooled:
            self.prepare_threshold = None
            if self.way is not _Way.WITHOUT_TRANSACTIONS:
                await self.execute("begin")
                await self.execute("commit")
            return
        for each in _statements(self.info.server_version, is_local=False, waits_for_disk=waits_for_disk):
            await self.execute(each)
        self.prepare_threshold = 0

    async def run(self, statement: LiteralString, parameters: Sequence[Any]) -> psycopg.AsyncCursor[Any]:
        """Execute one statement with the reactor's settings; the answer is in PostgreSQL's binary format."""
        if not self.is_pooled or self.way is _Way.WITHOUT_TRANSACTIONS:
            return await self.execute(statement, parameters, binary=True)
        try:
            async with self.pipeline():
                await self.execute(_BEGIN)
                for each in _statements(self.info.server_version, is_local=True):
                    await self.execute(each)
                cursor = await self.execute(statement, parameters, binary=True)
                await self.execute("commit")
        except psycopg.Error:
            with suppress(psycopg.Error):
                await self.rollback()
            raise
        return cursor


def connect(conninfo: str, *, application_name: str, needs_writes: bool = False) -> Session:
    """Open and set up one blocking autocommit connection. Raises psycopg.Error."""
    way = _Way.USUAL
    for tries_left in reversed(range(_TRIES)):
        conn = Session.connect(conninfo, **{**_OPTIONS, "application_name": application_name})
        conn.way = way
        try:
            conn.set_up(needs_writes=needs_writes)
        except psycopg.Error as error:
            conn.close()
            other_way = _other_way(error, is_pooled=conn.is_pooled)
            if not tries_left or other_way is None:
                raise
            way = other_way
        else:
            return conn
    raise AssertionError  # unreachable: the last try returns or raises


def _examine(row: Sequence[Any] | None, backend_pid: int, *, needs_writes: bool = True) -> bool:
    """Return whether a pooler is between: it has switched the server process. Raises ServerReadOnly for a standby."""
    pid, is_standby = row or (backend_pid, False)
    if is_standby and needs_writes:
        raise ServerReadOnly(f"{TAKES_NO_WRITES}: it is a standby")
    return bool(pid != backend_pid)


def _other_way(error: psycopg.Error, *, is_pooled: bool) -> _Way | None:
    """Return how to set up the next connection after this one failed; None if that can't help."""
    if error.sqlstate in _CUT_SHORT or error.sqlstate is None:  # None: the server has closed the connection
        return _Way.CAREFUL
    return _Way.WITHOUT_TRANSACTIONS if is_pooled and error.sqlstate == _PROTOCOL_VIOLATION else None
