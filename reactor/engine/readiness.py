"""Whether the reactor can do its work now, and why not: what /readyz answers.

Readiness is for whoever sends work or people; it says nothing of life. An outage of the database makes a reactor
unready and must never make anybody restart it: it reconnects by itself, and what it knew would be lost.
"""

from reactor.core.events import DatabaseLost, Event
from reactor.core.health import NOT_LISTENING, POLLED
from reactor.engine.listen import Listen
from reactor.engine.reconcile import Reconcile
from reactor.postgres.presence import Presence
from reactor.runtime.clock import Clock

UNANSWERED_S = 10.0
"""For how long the database may fail to answer: a failover takes less."""


class Readiness:
    """Hears every event, and asks whoever knows more."""

    def __init__(self, listen: Listen, reconcile: Reconcile, presence: Presence, clock: Clock) -> None:
        self._listen = listen
        self._reconcile = reconcile
        self._presence = presence
        self._clock = clock
        self._lost_at = float("-inf")
        """When the database first failed to answer since its last answer to a presence."""

    def hear(self, event: Event) -> None:
        # the listening connection may lead elsewhere, and `mode` tells of it
        is_loss = isinstance(event, DatabaseLost) and event.doing != "listen"
        if is_loss and self._lost_at <= self._presence.answered_at:
            self._lost_at = self._clock.now()

    def missing(self) -> list[str]:
        """Return what keeps the reactor from being ready, a line each; empty when it is."""
        reasons = []
        if self._listen.mode == "polling":
            reasons.append(POLLED)
        elif self._listen.mode != "listening":
            reasons.append(NOT_LISTENING)
        if self._reconcile.finished_at is None:
            reasons.append("not reconciled yet")
        silence_s = self._clock.now() - self._lost_at
        if self._lost_at > self._presence.answered_at and silence_s > UNANSWERED_S:
            reasons.append(f"the database hasn't answered for {silence_s:.0f} s")
        return reasons
