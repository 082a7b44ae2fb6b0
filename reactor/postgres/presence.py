"""This reactor's row among the running instances: one statement reports it, and may notify a canary."""

import math
import socket
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock

PEERS_CHANNEL = "reactor_peers"
"""Notified when a reactor starts or stops to listen; the payload is its instance id."""


class Peers(NamedTuple):
    """The reactors of this database, this one among them."""

    alive: frozenset[UUID]
    listening: frozenset[UUID]
    """Those to which notifications arrive."""


class Presence:
    """Reports one reactor's presence, and measures the database's clock with each report."""

    def __init__(self, database: QueryRunner, clock: Clock, *, version: str, expires_s: float) -> None:
        """An instance that has not reported for `expires_s` counts as stopped."""
        self._database = database
        self._clock = clock
        self._version = version
        self._expires_after = timedelta(seconds=expires_s)
        self.instance: UUID = uuid4()
        self.channel = f"reactor_canary_{self.instance.hex[:16]}"
        """The channel of this reactor's canary."""
        self.queue_usage = 0.0
        """How full the server's notification queue was at the last report, 0 to 1."""
        self.answered_at = -math.inf
        """Monotonic time of the database's last answer."""

    async def report(self, mode: str, *, with_canary: bool) -> Peers:
        """Report that this reactor runs; return all that do. Raises DatabaseUnavailable.

        `mode` is 'starting', 'listening' or 'polling'. With a canary, the database notifies `channel`.
        """
        sent = self._clock.now()
        canary = self.channel if with_canary else None
        arguments = (self.instance, socket.gethostname(), self._version, mode, canary, self._expires_after)
        [(now_at, queue_usage, instances, listening)] = await self._database.call(statements.REPORT_PRESENCE, arguments)
        self.answered_at = self._clock.now()
        self._clock.observe(sent, self.answered_at, now_at)
        self.queue_usage = queue_usage
        return Peers(frozenset(instances), frozenset(listening))

    async def deregister(self) -> None:
        """Delete this reactor's row, which notifies the others. Raises DatabaseUnavailable."""
        await self._database.call(statements.DEREGISTER_INSTANCE, (self.instance,))
