"""This reactor's sign of life in the database: one statement that says it lives, and may notify its own channel."""

import math
import socket
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID, uuid4

from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock

PEERS_CHANNEL = "reactor_peers"
"""Where the database tells that a reactor listens from now on, or no longer; the payload is its instance."""


class Peers(NamedTuple):
    """The reactors of this database, this one among them."""

    alive: frozenset[UUID]
    listening: frozenset[UUID]
    """Those that hear notifications."""


class Presence:
    """Beats for one reactor, and measures the database's clock as it does."""

    def __init__(self, database: QueryRunner, clock: Clock, *, version: str, silent_after_s: float) -> None:
        self._database = database
        self._clock = clock
        self._version = version
        self._silent_after = timedelta(seconds=silent_after_s)
        self.instance: UUID = uuid4()
        self.channel = f"reactor_canary_{self.instance.hex[:16]}"
        self.queue_usage = 0.0
        """How full the server's notification queue was at the last beat, 0 to 1."""
        self.answered_at = -math.inf
        """When the database last answered a beat, by our clock."""

    async def report(self, mode: str, *, with_canary: bool) -> Peers:
        """Beat once and return who else is there. Raises DatabaseUnavailable."""
        sent = self._clock.now()
        canary = self.channel if with_canary else None
        arguments = (self.instance, socket.gethostname(), self._version, mode, canary, self._silent_after)
        [(now_at, queue_usage, instances, listening)] = await self._database.call(statements.REPORT_PRESENCE, arguments)
        self.answered_at = self._clock.now()
        self._clock.observe(sent, self.answered_at, now_at)
        self.queue_usage = queue_usage
        return Peers(frozenset(instances), frozenset(listening))

    async def deregister(self) -> None:
        """Say goodbye: the others hear of it at once. Raises DatabaseUnavailable."""
        await self._database.call(statements.DEREGISTER_INSTANCE, (self.instance,))
