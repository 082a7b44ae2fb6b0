"""Whether the reactor can do its work now, and why not: what /readyz answers.

Readiness says nothing about life. An outage of the database makes a reactor unready, and must never get it restarted:
it reconnects, and a restart would lose what it holds in memory.
"""

from collections.abc import Callable, Mapping
from typing import Any

from anyio import Event

from reactor.core.events import DatabaseLost, ListenerLost, Listening, Polling, Reconciled
from reactor.core.health import NOT_LISTENING, POLLED
from reactor.postgres.presence import Presence
from reactor.runtime.clock import Clock

UNANSWERED_S = 10.0
"""How long the database may fail to answer before the reactor is unready: a failover takes less."""


class Readiness:
    """The state that events say, and the database's last answer to a report of presence."""

    def __init__(self, presence: Presence, clock: Clock) -> None:
        self._presence = presence
        self._clock = clock
        self._mode = "starting"
        self._has_reconciled = False
        self._lost_at = float("-inf")
        """Monotonic time of the first failure since the database last answered."""
        self._changed = Event()

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the handlers by event type."""
        return {
            Listening: lambda _: self._set_mode("listening"),
            ListenerLost: lambda _: self._set_mode("starting"),
            Polling: lambda _: self._set_mode("polling"),
            Reconciled: self._on_reconciled,
            DatabaseLost: self._on_database_lost,
        }

    async def wait(self, *, ready: bool) -> None:
        """Return once the reactor is ready, or once an event has made it unready."""
        while bool(self.reasons()) is ready:
            await self._changed.wait()

    def reasons(self) -> list[str]:
        """Return why the reactor is not ready, one line each; empty when it is ready."""
        reasons = []
        if self._mode == "polling":
            reasons.append(POLLED)
        elif self._mode != "listening":
            reasons.append(NOT_LISTENING)
        if not self._has_reconciled:
            reasons.append("not reconciled yet")
        silence_s = self._clock.now() - self._lost_at
        if self._lost_at > self._presence.answered_at and silence_s > UNANSWERED_S:
            reasons.append(f"the database hasn't answered for {silence_s:.0f} s")
        return reasons

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        self._notify_change()

    def _on_reconciled(self, _: Reconciled) -> None:
        self._has_reconciled = True
        self._notify_change()

    def _on_database_lost(self, event: DatabaseLost) -> None:
        # the listening connection may lead to another server; its state is the mode
        if event.doing != "listen" and self._lost_at <= self._presence.answered_at:
            self._lost_at = self._clock.now()

    def _notify_change(self) -> None:
        self._changed.set()
        self._changed = Event()
