"""The simulated database server. Calls fail or their answers are lost; notifications are lost, late or doubled."""

import asyncio
import contextvars
import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

from anyio import CancelScope, sleep
from anyio.lowlevel import cancel_shielded_checkpoint
from attrs import define, evolve

from reactor.core.errors import DatabaseRefused, DatabaseUnavailable
from reactor.postgres import statements
from simulation.checks import Checks
from simulation.database import Database
from simulation.faults import Faults
from simulation.loop import Node, VirtualLoop

if TYPE_CHECKING:
    from simulation.tables import UploadRow

EPOCH_S = 1_768_000_000.0
"""January 2026, so that no billing month ends during a run."""

NO_NODE = contextvars.Context()
"""The context of the server's callbacks. They belong to no node, so a killed or frozen reactor doesn't stop them."""

_FORGERIES = ("", "{", '{"v":2}', '{"v":1,"at":1,"rows":[]}', '{"v":1,"rescan":true}')


_FLUSHED_WITHIN_S = 0.6
"""PostgreSQL flushes an asynchronous commit within three times wal_writer_delay, which is 200 ms."""

_NOT_FLUSHED = frozenset(
    {
        statements.CLAIM_UPLOADS,
        statements.CLAIM_UPLOADS_EXCEPT,
        statements.SWEEP_UPLOADS,
        statements.SWEEP_RUNS,
        statements.CONFIRM_STORED,
    }
)
"""Statements whose commits flush nothing: claims commit asynchronously, the other three only read."""

_CLAIMS = {statements.CLAIM_UPLOADS, statements.CLAIM_UPLOADS_EXCEPT}


class _Lost(Exception):
    """The connection broke. It is unknown whether the statement committed."""


class Server:
    """One PostgreSQL server: tables, clock and all connections."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, faults: Faults, checks: Checks) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.checks = checks
        self.clock_ahead_s = 0.0
        self.is_up = True
        self.triggers_disabled = False
        """While True, the triggers send no notifications, as if the triggers had been dropped."""
        self.listeners: list[Connection] = []
        self.next_call_fails: dict[str, str] = {}
        """Maps a statement to 'before' or 'after': its next call fails before or after the commit."""
        self._unflushed: list[tuple[float, UploadRow]] = []
        """(time of the claim, copy of the row before the claim) for each claim that no later commit has flushed."""
        self.db = Database(clock=self.clock, tenant_of=lambda user: user.int & 0x7FFFFFFF)
        checks.watch(self.db)

    def clock(self) -> float:
        return self.loop.time() + EPOCH_S + self.clock_ahead_s

    def latency_s(self) -> float:
        if self.happens(self.faults.call_is_slow):
            return self.rng.uniform(0.5, 30.0)
        return self.rng.uniform(0.0002, 0.005)

    def happens(self, chance: float) -> bool:
        # a fault that isn't in the mixture draws no random number, so it doesn't change the rest of the run
        return chance > 0 and self.rng.random() < chance

    # transactions

    def commit(self, transaction: Callable[[], Any], *, is_durable: bool = True) -> Any:
        """Run a transaction, send its notifications and return its result. A durable commit flushes earlier claims."""
        done = transaction()
        if is_durable:
            self._unflushed.clear()
        sent, self.db.sent[:] = list(self.db.sent), []
        for channel, payload in sent:
            is_hint = channel in {"reactor_uploads", "reactor_runs"}
            if not (is_hint and self.triggers_disabled):
                self._notify(channel, json.dumps(payload) if is_hint else str(payload))
        self.checks.after_commit()
        return done

    def _notify(self, channel: str, text: str) -> None:
        faults, copies = self.faults, [text]
        if self.happens(faults.notification_doubled):
            copies.append(text)
        if self.happens(faults.notification_forged):
            copies.append(self.rng.choice(_FORGERIES))
        for connection in list(self.listeners):
            if channel not in connection.channels:
                continue
            if self.happens(faults.listener_dies):
                connection.disconnect("terminating connection due to administrator command")
                continue
            for copy in copies:
                if connection.is_silent or self.happens(faults.notification_lost):
                    continue
                late_s = self.rng.uniform(0.0, 10.0) if self.happens(faults.notification_late) else 0.0
                connection.receive_after(late_s + self.rng.uniform(0.0001, 0.001), channel, copy)

    # faults

    def stop(self) -> None:
        """Disconnect all listeners. Until `start`, calls that arrive and new listeners are refused."""
        self.is_up = False
        for connection in list(self.listeners):
            connection.disconnect("terminating connection due to unexpected postmaster exit")

    def restart(self) -> None:
        """Stop the server, and start it again after 0.5, 3 or 20 s."""
        if self.is_up:
            self.checks.log("database", "is down")
            self.stop()
            self.loop.call_later(self.rng.choice([0.5, 3.0, 20.0]), self.start, context=NO_NODE)

    def start(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.checks.log("database", "is up")

    def before_claim(self, ids: Sequence[UUID]) -> None:
        """Copy the rows of a claim, so that a crash can undo the claim. At random, schedule a crash."""
        now = self.loop.time()
        self._unflushed += [(now, evolve(self.db.uploads[i])) for i in ids if i in self.db.uploads]
        if self.happens(self.faults.crashes_after_claim):
            self.loop.call_later(self.rng.uniform(0.0, 0.3), self._crash, context=NO_NODE)

    def _crash(self) -> None:
        """Undo the claims that weren't flushed, and restart. Does nothing after the faults have stopped."""
        if self.checks.faults_stopped:
            return
        since = self.loop.time() - _FLUSHED_WITHIN_S
        for claimed_at, row in reversed(self._unflushed):
            if self.is_up and claimed_at >= since:
                self.db.uploads[row.id] = row
                self.checks.on_claim_lost(row)
        self._unflushed.clear()
        self.restart()

    def break_listeners(self) -> None:
        for connection in list(self.listeners):
            connection.disconnect("terminating connection due to administrator command")


@define
class Client:
    """The connections of one reactor, except its listening connection. Implements `QueryRunner`."""

    server: Server
    node: Node

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        parameters = [_read_uuids(parameter) for parameter in parameters]
        with CancelScope(shield=True):
            for last in (False, False, True):
                try:
                    return await self._send(statement, parameters)
                except _Lost as error:
                    if last:
                        raise DatabaseUnavailable(str(error)) from error
        raise AssertionError("unreachable: the last try returns or raises")

    async def _send(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        server = self.server
        loop, answer = server.loop, server.loop.create_future()
        server.checks.on_call(self.node, statement)

        def reply(error: Exception | None, rows: Any = None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(rows)

        def arrive() -> None:
            forced = server.next_call_fails.pop(statement, None)
            rows, error = None, self._error_before(forced)
            if error is None:
                rows, error = self._commit(statement, parameters)
            if error is None:
                error = self._error_after(forced)
            loop.call_later(server.latency_s(), reply, error, rows, context=NO_NODE)

        loop.call_later(server.latency_s(), arrive, context=NO_NODE)
        answered: list[Any] = await answer
        server.checks.on_answer(self.node, statement, parameters, answered)
        return answered

    def _error_before(self, forced: str | None) -> Exception | None:
        if not self.server.is_up or self.server.happens(self.server.faults.call_fails_before):
            return _Lost("connection refused")
        if forced == "before" or self.server.happens(self.server.faults.call_is_refused):
            return DatabaseUnavailable("canceling statement due to statement timeout")
        return None

    def _error_after(self, forced: str | None) -> Exception | None:
        if forced == "after":
            return DatabaseUnavailable("the connection is lost")
        if self.server.happens(self.server.faults.call_fails_after):
            return _Lost("server closed the connection unexpectedly")
        return None

    def _commit(self, statement: LiteralString, parameters: Sequence[Any]) -> tuple[list[Any] | None, Exception | None]:
        """Run a statement; return its rows, or why the app's triggers refuse it."""
        is_durable = statement not in _NOT_FLUSHED
        try:
            return self.server.commit(lambda: self._answer(statement, parameters), is_durable=is_durable), None
        except DatabaseRefused as refusal:
            return None, refusal

    def _answer(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        if statement in _CLAIMS:
            self.server.before_claim(parameters[0])
        rows = self.server.db.answer(statement, parameters)
        self.server.checks.on_commit(self.node, statement, parameters, rows)
        return rows


def _read_uuids(parameter: Any) -> Any:
    """Return the UUIDs of an array literal as a list. Return any other parameter unchanged."""
    if isinstance(parameter, str) and parameter.startswith("{"):
        return [UUID(text) for text in parameter[1:-1].split(",") if text]
    return parameter


class Connection:
    """One listening connection, from LISTEN until it breaks."""

    def __init__(self, server: Server, node: Node, channels: Iterable[str], *, is_silent: bool) -> None:
        self.node = node
        self.channels = frozenset(channels)
        self.is_silent = is_silent
        self.inbox: deque[tuple[str, str]] = deque()
        self.end: str | None = None
        self.changed = asyncio.Event()
        self._server = server

    def receive_after(self, seconds: float, channel: str, text: str) -> None:
        self._server.loop.call_later(seconds, self._receive, channel, text, context=NO_NODE)

    def _receive(self, channel: str, text: str) -> None:
        if self.end is None:
            self.inbox.append((channel, text))
            self.changed.set()

    def disconnect(self, reason: str) -> None:
        """End the connection, as the server or the network does."""
        if self in self._server.listeners:
            self._server.listeners.remove(self)
        self.end = reason
        self.changed.set()


class SimulatedListener:
    """The listening connection of one reactor; each `listen` opens a new one. Implements `NotificationSource`."""

    def __init__(self, server: Server, node: Node) -> None:
        self._server = server
        self._node = node
        self._connection: Connection | None = None

    async def listen(self, on_live: Callable[[], None], handlers: Mapping[str, Callable[[str], None]]) -> None:
        server = self._server
        with CancelScope(shield=True):
            await sleep(server.latency_s())
        if not server.is_up or server.happens(server.faults.listener_refused):
            raise DatabaseUnavailable("connection refused")
        is_silent = server.happens(server.faults.listener_silent)
        connection = self._connection = Connection(server, self._node, handlers, is_silent=is_silent)
        server.listeners.append(connection)
        try:
            with CancelScope(shield=True):
                await sleep(server.latency_s())
            server.checks.on_listener_live(self._node)
            on_live()
            while connection.end is None or connection.inbox:
                while connection.inbox:
                    channel, text = connection.inbox.popleft()
                    handlers[channel](text)
                    await cancel_shielded_checkpoint()
                if connection.end is None:
                    await connection.changed.wait()
                    connection.changed.clear()
            raise DatabaseUnavailable(connection.end)
        finally:
            connection.disconnect("closed")
            self._connection = None

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.inbox.clear()
            self._connection.disconnect("aborted")
