"""The database server as reactors meet it: calls that arrive or don't, notifications that come, or twice, or never."""

import contextvars
import json
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, LiteralString
from uuid import UUID

from anyio import CancelScope, sleep
from anyio.lowlevel import cancel_shielded_checkpoint
from attrs import define, evolve

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres import statements
from reactor.runtime.auto_reset_event import Wakeup
from simulation.checks import Checks
from simulation.database import Database
from simulation.faults import Faults
from simulation.loop import Node, VirtualLoop

if TYPE_CHECKING:
    from simulation.tables import UploadRow

EPOCH_S = 1_768_000_000.0
"""January 2026: months don't turn over in a run."""

NOBODY = contextvars.Context()
"""Where the server's own work runs: no reactor's death or sleep holds it up."""

_FORGERIES = ("", "{", '{"v":2}', '{"v":1,"at":1,"rows":[]}', '{"v":1,"rescan":true}')


_FLUSHED_WITHIN_S = 0.6
"""PostgreSQL's promise for asynchronous commits: three times wal_writer_delay."""

_NEVER_FLUSH = frozenset(
    {statements.CLAIM_UPLOADS, statements.SWEEP_UPLOADS, statements.SWEEP_RUNS, statements.CONFIRM_STORED}
)
"""Claims don't wait for the disk, and the others write nothing."""


class _Lost(Exception):
    """The connection broke; whether the statement was done, nobody knows."""


class Server:
    """One PostgreSQL: its tables, its clock, and everybody's connections to it."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, faults: Faults, checks: Checks) -> None:
        self.loop = loop
        self.rng = rng
        self.faults = faults
        self.checks = checks
        self.clock_ahead_s = 0.0
        self.is_up = True
        self.is_mute = False
        """True while triggers say nothing, as where somebody has dropped them."""
        self.listeners: list[Connection] = []
        self.next_call_fails: dict[str, str] = {}
        """By statement: 'before' or 'after', for the next call of it alone."""
        self._unflushed: list[tuple[float, UploadRow]] = []
        """When each row was claimed that no later commit has made durable, and what it was before."""
        self.db = Database(clock=self.clock, tenant_of=lambda user: user.int & 0x7FFFFFFF)
        checks.watch(self.db)

    def clock(self) -> float:
        return self.loop.time() + EPOCH_S + self.clock_ahead_s

    def latency_s(self) -> float:
        if self.happens(self.faults.call_is_slow):
            return self.rng.uniform(0.5, 30.0)
        return self.rng.uniform(0.0002, 0.005)

    def happens(self, chance: float) -> bool:
        # asked only where it may: else every fault would shift the chances of all others
        return chance > 0 and self.rng.random() < chance

    # transactions

    def commit(self, transaction: Callable[[], Any], *, is_durable: bool = True) -> Any:
        """Do something in the database and tell of it."""
        done = transaction()
        if is_durable:
            self._unflushed.clear()
        sent, self.db.sent[:] = list(self.db.sent), []
        for channel, payload in sent:
            is_hint = channel in {"reactor_uploads", "reactor_runs"}
            if not (is_hint and self.is_mute):
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
                connection.break_off("terminating connection due to administrator command")
                continue
            for copy in copies:
                if connection.is_deaf or self.happens(faults.notification_lost):
                    continue
                late_s = self.rng.uniform(0.0, 10.0) if self.happens(faults.notification_late) else 0.0
                connection.receive_after(late_s + self.rng.uniform(0.0001, 0.001), channel, copy)

    # faults

    def stop(self) -> None:
        """Break all connections; what is on its way is lost."""
        self.is_up = False
        for connection in list(self.listeners):
            connection.break_off("terminating connection due to unexpected postmaster exit")

    def restart(self) -> None:
        """Stop, and start again after a while."""
        if self.is_up:
            self.checks.tell("database", "is down")
            self.stop()
            self.loop.call_later(self.rng.choice([0.5, 3.0, 20.0]), self.start, context=NOBODY)

    def start(self) -> None:
        if not self.is_up:
            self.is_up = True
            self.checks.tell("database", "is up")

    def claims(self, ids: Sequence[UUID]) -> None:
        """Remember what a claim is about to change, for a crash may come."""
        now = self.loop.time()
        self._unflushed += [(now, evolve(self.db.uploads[i])) for i in ids if i in self.db.uploads]
        if self.happens(self.faults.crashes_after_claim):
            self.loop.call_later(self.rng.uniform(0.0, 0.3), self._crash, context=NOBODY)

    def _crash(self) -> None:
        """Take the last commits that were not flushed along."""
        if self.checks.is_calm:
            return
        since = self.loop.time() - _FLUSHED_WITHIN_S
        for claimed_at, row in reversed(self._unflushed):
            if self.is_up and claimed_at >= since:
                self.db.uploads[row.id] = row
                self.checks.forgets(row)
        self._unflushed.clear()
        self.restart()

    def break_listeners(self) -> None:
        for connection in list(self.listeners):
            connection.break_off("terminating connection due to administrator command")


@define
class Client:
    """The connections of one reactor. A `QueryRunner`."""

    server: Server
    node: Node

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        with CancelScope(shield=True):
            for last in (False, False, True):
                try:
                    return await self._send(statement, parameters)
                except _Lost as error:
                    if last:
                        raise DatabaseUnavailable(str(error)) from error
        raise AssertionError  # the last try returns or raises

    async def _send(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        server = self.server
        loop, answer = server.loop, server.loop.create_future()
        server.checks.sends(self.node, statement)

        def reply(error: Exception | None, rows: Any = None) -> None:
            if answer.done():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(rows)

        def arrive() -> None:
            forced = server.next_call_fails.pop(statement, None)
            error: Exception | None = None
            if not server.is_up or server.happens(server.faults.call_fails_before):
                error = _Lost("connection refused")
            elif forced == "before" or server.happens(server.faults.call_is_refused):
                error = DatabaseUnavailable("canceling statement due to statement timeout")
            rows = None
            if error is None:
                is_durable = statement not in _NEVER_FLUSH
                rows = server.commit(lambda: self._answer(statement, parameters), is_durable=is_durable)
                if forced == "after":
                    error = DatabaseUnavailable("the connection is lost")
                elif server.happens(server.faults.call_fails_after):
                    error = _Lost("server closed the connection unexpectedly")
            loop.call_later(server.latency_s(), reply, error, rows, context=NOBODY)

        loop.call_later(server.latency_s(), arrive, context=NOBODY)
        answered: list[Any] = await answer
        server.checks.is_told(self.node, statement, parameters, answered)
        return answered

    def _answer(self, statement: LiteralString, parameters: Sequence[Any]) -> list[Any]:
        if statement == statements.CLAIM_UPLOADS:
            self.server.claims(parameters[0])
        rows = self.server.db.answer(statement, parameters)
        self.server.checks.answers(self.node, statement, parameters, rows)
        return rows


class Connection:
    """One listening connection, from LISTEN to its end."""

    def __init__(self, server: Server, node: Node, channels: Sequence[str], *, is_deaf: bool) -> None:
        self.node = node
        self.channels = frozenset(channels)
        self.is_deaf = is_deaf
        self.inbox: deque[tuple[str, str]] = deque()
        self.end: str | None = None
        self.changed = Wakeup()
        self._server = server

    def receive_after(self, seconds: float, channel: str, text: str) -> None:
        self._server.loop.call_later(seconds, self._receive, channel, text, context=NOBODY)

    def _receive(self, channel: str, text: str) -> None:
        if self.end is None:
            self.inbox.append((channel, text))
            self.changed.set()

    def break_off(self, reason: str) -> None:
        """The server, or the network, has ended it."""
        if self in self._server.listeners:
            self._server.listeners.remove(self)
        self.end = reason
        self.changed.set()


class SimulatedEar:
    """One reactor's listening connections, one after another. A `NotificationSource`."""

    def __init__(self, server: Server, node: Node, channels: Sequence[str]) -> None:
        self._server = server
        self._node = node
        self._channels = channels
        self._connection: Connection | None = None

    async def hear(self, live: Callable[[], None], heard: Callable[[str, str], None]) -> None:
        server = self._server
        with CancelScope(shield=True):
            await sleep(server.latency_s())
        if not server.is_up or server.happens(server.faults.listener_refused):
            raise DatabaseUnavailable("connection refused")
        is_deaf = server.happens(server.faults.listener_deaf)
        connection = self._connection = Connection(server, self._node, self._channels, is_deaf=is_deaf)
        server.listeners.append(connection)
        try:
            with CancelScope(shield=True):
                await sleep(server.latency_s())
            server.checks.is_live(self._node)
            live()
            while connection.end is None or connection.inbox:
                while connection.inbox:
                    heard(*connection.inbox.popleft())
                    await cancel_shielded_checkpoint()
                if connection.end is None:
                    await connection.changed.wait()
            raise DatabaseUnavailable(connection.end)
        finally:
            connection.break_off("closed")
            self._connection = None

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.inbox.clear()
            self._connection.break_off("severed")
