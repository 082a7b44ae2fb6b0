"""Reports that this reactor runs, and reads which other reactors run."""

import os
import socket
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock

PEERS_CHANNEL = "reactor_peers"
"""When a reactor starts or stops listening, the database notifies this channel with the instance id of that reactor."""


class Peers(NamedTuple):
    """The instance ids of the reactors of this database, including this reactor."""

    alive: frozenset[UUID]
    listening: frozenset[UUID]
    """The reactors whose mode is 'listening'."""


class Presence:
    """Reports the presence of one reactor. Each report also measures the database's clock."""

    def __init__(self, database: QueryRunner, clock: Clock, *, version: str, expires_s: float) -> None:
        """Instances that have not reported for `expires_s` are regarded as stopped."""
        self._database = database
        self._clock = clock
        self._version = version
        self._expires_after = timedelta(seconds=expires_s)
        self.instance: UUID = uuid4()
        self.channel = f"reactor_canary_{self.instance.hex[:16]}"
        """The channel of this reactor's canary."""
        self.port: int | None = None
        """The port of this reactor's page; None without one."""
        self.queue_usage = 0.0
        """The usage of the server's notification queue at the last report, 0 to 1."""

    async def report(self, mode: str, *, with_canary: bool) -> Peers:
        """Report that this reactor runs; return all running reactors. Raises DatabaseUnavailable.

        `mode` is 'starting', 'listening' or 'polling'. If `with_canary`, the database sends a notification on
        `channel`, unless its notification queue is half full.
        """
        sent = self._clock.now()
        canary = self.channel if with_canary else None
        arguments = (
            self.instance,
            socket.gethostname(),
            os.getpid(),
            self.port,
            self._version,
            mode,
            canary,
            self._expires_after,
        )
        [(now_at, queue_usage, instances, listening)] = await self._database.call(statements.REPORT_PRESENCE, arguments)
        self._clock.observe(sent, self._clock.now(), now_at)
        self.queue_usage = queue_usage
        return Peers(frozenset(instances), frozenset(listening))

    async def deregister(self) -> None:
        """Delete this reactor's row, and notify the other reactors. Raises DatabaseUnavailable."""
        await self._database.call(statements.DEREGISTER_INSTANCE, (self.instance,))
