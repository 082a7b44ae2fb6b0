"""The connections of a client: a pool for its calls, and one connection for the heartbeats of its runs.

They belong to one event loop of one process. In a forked process, and after the loop was closed, the first call opens
new ones; the parent's connections are neither used nor closed there.
"""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

from attrs import define, field

from reactor.client.heartbeats import HeartbeatSender
from reactor.client.slots import Slots
from reactor.core.errors import ConfigInvalid, DatabaseForbidden, DatabaseUnavailable
from reactor.postgres import statements
from reactor.postgres.connection import ConnectionPool, DedicatedConnection
from reactor.postgres.results import accepted

_NAMED: Final = "the client's dsn"

_of_parents: Final[list[object]] = []
"""What forked processes inherited. It is kept, because its destructors would act on the parent's connections."""


def refuse_green_threads() -> None:
    """Raise ConfigInvalid if gevent or eventlet has replaced the threads and sockets that an event loop needs."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    patched_by = [
        name
        for name, is_patched in (
            ("gevent", gevent and (gevent.is_module_patched("threading") or gevent.is_module_patched("socket"))),
            ("eventlet", eventlet and (eventlet.is_monkey_patched("thread") or eventlet.is_monkey_patched("socket"))),
        )
        if is_patched
    ]
    if patched_by:
        raise ConfigInvalid(
            f"{patched_by[0]} has replaced Python's threads and sockets, and this client can't run on them: "
            "use workers with threads (gunicorn: --worker-class gthread), or call the SQL functions yourself"
        )


@define(eq=False)
class _Opened:
    """What is open in one event loop."""

    loop: asyncio.AbstractEventLoop
    heartbeats: HeartbeatSender
    slots: Slots
    """A call with a place finds a free connection, unless the database is away."""

    process: int = field(factory=os.getpid)
    opening: asyncio.Task[ConnectionPool] | None = None
    """Opens the pool; all first calls wait for the same task."""


class Connections:
    """Calls SQL functions over at most `size` connections; a call waits up to `wait_s` for one of them."""

    def __init__(self, dsn: str, *, size: int, wait_s: float) -> None:
        """Open nothing. Raises ConfigInvalid under gevent or eventlet."""
        refuse_green_threads()
        self._dsn = dsn
        self._size = size
        self._wait_s = wait_s
        self._opened: _Opened | None = None
        self._runs = 0
        self._closes_after_runs = False

    async def ask(
        self, statement: LiteralString, arguments: Sequence[Any], *, is_urgent: bool = False
    ) -> Mapping[str, Any]:
        """Call one SQL function and return its answer. A refusal raises the exception of its code.

        An urgent call, such as the end of a run, doesn't wait behind the client's other calls. Raises
        DatabaseUnavailable if no connection is free within `wait_s`.
        """
        pool = await self.open()
        slots = self._here().slots
        try:
            async with asyncio.timeout(self._wait_s):
                await slots.acquire(is_urgent=is_urgent)
        except TimeoutError:
            raise DatabaseUnavailable(
                f"the client's connections (connections={self._size}) were busy for {self._wait_s:g} s: "
                "raise `connections` or `wait_s` of the client, or make fewer calls at once"
            ) from None
        try:
            return await _call(pool, statement, arguments)
        finally:
            slots.release()

    async def open(self) -> ConnectionPool:
        """Open the pool if it isn't open. Raises DatabaseUnavailable."""
        opened = self._here()
        if opened.opening is None or (opened.opening.done() and _has_failed(opened.opening)):
            opened.opening = opened.loop.create_task(self._open())
            opened.opening.add_done_callback(_has_failed)  # reads the exception, even if every caller was cancelled
        return await asyncio.shield(opened.opening)

    def heartbeats(self) -> HeartbeatSender:
        """Return the sender of this event loop."""
        return self._here().heartbeats

    def run_begins(self) -> None:
        """Keep the connections open until `run_ended`."""
        self._here()
        self._runs += 1

    async def run_ended(self) -> None:
        """Close the connections if `close` was called during the last run."""
        self._runs = max(0, self._runs - 1)
        if self._closes_after_runs:
            await self.close()

    async def close(self) -> None:
        """Close all connections, now or after the last run. A later call opens new connections."""
        opened = self._opened
        if opened is None or opened.process != os.getpid():
            return
        self._closes_after_runs = self._runs > 0
        if self._runs == 0:
            self._opened = None
            await opened.heartbeats.finish()
            if opened.opening is not None:
                await asyncio.wait([opened.opening])
                if not _has_failed(opened.opening):
                    await opened.opening.result().close()

    async def send_heartbeats(self, connection: DedicatedConnection, run_ids: Sequence[UUID]) -> Mapping[str, Any]:
        """Send one heartbeat of each run, and return the answer."""
        [(answer,)] = await connection.call(statements.HEARTBEAT_INTERPRETATIONS, (list(run_ids),))
        return dict(answer)

    async def _open(self) -> ConnectionPool:
        pool = ConnectionPool(self._dsn, size=self._size, named=_NAMED)
        await pool.open()
        return pool

    def _here(self) -> _Opened:
        """Return what is open in this event loop and process. Raises RuntimeError in a second event loop."""
        opened, loop = self._opened, asyncio.get_running_loop()
        if opened is not None and opened.process != os.getpid():
            _of_parents.append(opened)
            opened, self._runs, self._closes_after_runs = None, 0, False
        if opened is not None and opened.loop is not loop:
            if not opened.loop.is_closed():
                raise RuntimeError(
                    "this ReactorClient is used in another event loop: create one for each event loop, "
                    "or use SyncReactorClient, which threads may share"
                )
            opened, self._runs, self._closes_after_runs = None, 0, False
        if opened is None:
            refuse_green_threads()
            connection = DedicatedConnection(self._dsn)
            sender = HeartbeatSender(lambda run_ids: self.send_heartbeats(connection, run_ids), connection.close)
            opened = self._opened = _Opened(loop, sender, Slots(self._size))
        return opened


async def _call(pool: ConnectionPool, statement: LiteralString, arguments: Sequence[Any]) -> Mapping[str, Any]:
    try:
        [(answer,)] = await pool.call(statement, arguments)
    except DatabaseForbidden as error:
        reason = str(error).partition(": run `reactor migrate`")[0]
        raise DatabaseForbidden(
            f"{reason}: run `reactor migrate` of this version, and connect as the tables' owner, as service_role, "
            "or with a role that may execute the reactor's functions"
        ) from error.__cause__
    return accepted(answer)


def _has_failed(opening: asyncio.Task[ConnectionPool]) -> bool:
    return opening.cancelled() or opening.exception() is not None
