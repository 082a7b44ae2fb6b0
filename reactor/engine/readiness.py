"""Computes whether the reactor is ready and, if not, why. /readyz returns the result.

Readiness is not liveness. A reactor is unready during an outage of the database, but must not be restarted for it: the
reactor reconnects without a restart, and a restart would lose the timers in its memory.
"""

from collections.abc import Callable, Mapping
from typing import Any

from anyio import Event

from reactor.core.events import BreakerMoved, DatabaseLost, ListenerLost, Listening, Polling, Reconciled
from reactor.core.health import NOT_LISTENING, POLLED, shared_refusal
from reactor.core.refusal import Place, Scope
from reactor.postgres.presence import Presence
from reactor.runtime.clock import Clock

UNANSWERED_S = 10.0
"""The reactor is unready when the database hasn't answered for this long. A failover takes less."""


class Readiness:
    """Derives readiness from events, and from the time of the database's last answer to a report of presence."""

    def __init__(self, presence: Presence, clock: Clock) -> None:
        self._presence = presence
        self._clock = clock
        self._mode = "starting"
        self._has_reconciled = False
        self._lost_at = float("-inf")
        """Monotonic time of the first failure since the database last answered."""
        self._refusals: dict[Place, str] = {}
        """Maps each place with a shared refusal to the reason why the reactor is not ready."""
        self._changed = Event()

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return a handler for each event type that affects readiness."""
        return {
            Listening: lambda _: self._set_mode("listening"),
            ListenerLost: lambda _: self._set_mode("starting"),
            Polling: lambda _: self._set_mode("polling"),
            Reconciled: self._on_reconciled,
            DatabaseLost: self._on_database_lost,
            BreakerMoved: self._on_breaker,
        }

    async def wait(self, *, ready: bool) -> None:
        """Return when the reactor is ready, or with `ready=False` when an event has made it unready."""
        while bool(self.reasons()) is ready:
            await self._changed.wait()

    def reasons(self) -> list[str]:
        """Return why the reactor is not ready, one line each; empty when it is ready."""
        reasons = list(self._refusals.values())
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
        # a lost listening connection is covered by the mode, and REACTOR_LISTEN_URL may name another server
        if event.doing != "listen" and self._lost_at <= self._presence.answered_at:
            self._lost_at = self._clock.now()

    def _on_breaker(self, event: BreakerMoved) -> None:
        self._refusals.pop(event.place, None)
        if event.opened is not None and event.opened.refusal.scope is Scope.SHARED:
            self._refusals[event.place] = shared_refusal(event.opened)
        self._notify_change()

    def _notify_change(self) -> None:
        self._changed.set()
        self._changed = Event()
