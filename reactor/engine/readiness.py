"""Computes whether the reactor is ready and, if not, why. /readyz returns the result.

Readiness is not liveness. A reactor is unready during an outage of the database, but must not be restarted for it: the
reactor reconnects without a restart, and a restart would lose the timers in its memory.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from anyio import Event

from reactor.core.errors import TAKES_NO_WRITES
from reactor.core.events import (
    BreakerMoved,
    DatabaseAnswers,
    DatabaseLost,
    ListenerLost,
    Listening,
    Polling,
    Reconciled,
)
from reactor.core.health import NOT_LISTENING, NOT_RECONCILED, POLLED, shared_refusal
from reactor.core.refusal import Place, Scope
from reactor.postgres import statements
from reactor.postgres.call_health import CallHealth, Failure
from reactor.runtime.clock import Clock

UNANSWERED_S = 10.0
"""The reactor is unready when a call to the database has failed for this long. A failover takes less."""

_CALLS: Final[Mapping[str, str]] = {
    statements.CLAIM_UPLOADS: "claims of uploads",
    statements.CLAIM_UPLOADS_EXCEPT: "claims of uploads",
    statements.SETTLE_UPLOADS: "settlements of uploads",
    statements.EXPIRE_RUNS: "claims of runs",
}
"""The calls that must succeed for rows to make progress, even if the database is only busy."""


class Readiness:
    """Derives readiness from events, and from the calls to the database that fail."""

    def __init__(self, health: CallHealth, clock: Clock) -> None:
        self._health = health
        self._clock = clock
        self._mode = "starting"
        self._has_reconciled = False
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
            DatabaseLost: lambda _: self._notify_change(),
            DatabaseAnswers: lambda _: self._notify_change(),
            BreakerMoved: self._on_breaker,
        }

    async def wait(self, *, ready: bool) -> None:
        """Return when the reactor is ready, or with `ready=False` when an event has made it unready."""
        while bool(self.reasons()) is ready:
            await self._changed.wait()

    def reasons(self) -> list[str]:
        """Return why the reactor is not ready, one line each, the cause first; empty when it is ready."""
        reasons = [*self._failing_calls(), *self._refusals.values()]
        if self._mode == "polling":
            reasons.append(POLLED)
        elif self._mode != "listening":
            reasons.append(NOT_LISTENING)
        if not self._has_reconciled:
            reasons.append(NOT_RECONCILED)
        return reasons

    def _failing_calls(self) -> list[str]:
        """Return the reason of the call that has failed longest. The other calls fail for the same reason."""
        for failure in self._health.failures():
            lasts_s = self._clock.now() - failure.since
            if failure.is_forbidden:
                return [failure.reason]
            if lasts_s > UNANSWERED_S and (failure.statement in _CALLS or not failure.is_busy):
                return [_sentence(failure, lasts_s)]
        return []

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        self._notify_change()

    def _on_reconciled(self, _: Reconciled) -> None:
        self._has_reconciled = True
        self._notify_change()

    def _on_breaker(self, event: BreakerMoved) -> None:
        self._refusals.pop(event.place, None)
        if event.opened is not None and event.opened.refusal.scope is Scope.SHARED:
            self._refusals[event.place] = shared_refusal(event.opened)
        self._notify_change()

    def _notify_change(self) -> None:
        self._changed.set()
        self._changed = Event()


def _sentence(failure: Failure, lasts_s: float) -> str:
    if failure.reason.startswith(TAKES_NO_WRITES):
        return f"{failure.reason}, for {lasts_s:.0f} s"
    if failure.is_busy:
        return f"{_CALLS[failure.statement]} have failed for {lasts_s:.0f} s: {failure.reason}"
    return f"the database hasn't answered for {lasts_s:.0f} s: {failure.reason}"
