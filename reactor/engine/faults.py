"""Records which calls to the database fail now, since when and why, from events. Page, readiness and status read it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define

from reactor.core.errors import TAKES_NO_WRITES
from reactor.core.events import DatabaseAnswers, DatabaseLost, ListenerLost, Listening, Polling
from reactor.core.health import reasons_by_cause
from reactor.core.process import Fault
from reactor.postgres.call_health import FORGOTTEN_AFTER_S
from reactor.runtime.clock import Clock

_LISTEN: Final = "listen"
_SIMPLEST: Final = "report presence"
"""A call that every database answers if it answers at all, and that a standby refuses."""


@define
class _Failing:
    doing: str
    reason: str
    since: float
    last_at: float


class DatabaseFaults:
    """The calls that fail now. `listens_elsewhere`: the listening connection leads to another address."""

    def __init__(self, clock: Clock, *, listens_elsewhere: bool) -> None:
        self._clock = clock
        self._listens_elsewhere = listens_elsewhere
        self._failing: dict[str, _Failing] = {}
        self._is_polling = False
        self.listener_reason = ""
        """Why notifications don't arrive; empty while they arrive."""

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return a handler for each event type that is about the database."""
        return {
            DatabaseLost: lambda event: self._record(event.doing, event.reason),
            ListenerLost: lambda event: self._record(_LISTEN, event.reason),
            DatabaseAnswers: self._on_answers,
            Polling: self._on_polling,
            Listening: self._on_listening,
        }

    def current(self) -> Fault | None:
        """Return the fault that explains the others: an outage, else the call that failed first; None if none fails."""
        oldest = self._clock.now() - FORGOTTEN_AFTER_S
        self._failing = {doing: each for doing, each in self._failing.items() if each.last_at >= oldest}
        if not self._failing:
            return None
        first = min(self._failing.values(), key=lambda each: each.since)
        # a new connection's error is more exact than the pool's, which only says that it timed out
        reasons = [self._failing.get(_LISTEN, first).reason, *(each.reason for each in self._failing.values())]
        read_only = next((reason for reason in reasons if reason.startswith(TAKES_NO_WRITES)), None)
        return Fault(
            doing=first.doing,
            reason=read_only or reasons[0],
            lasts_s=max(each.last_at for each in self._failing.values()) - first.since,
            is_outage=read_only is not None or self._is_outage(),
        )

    def _is_outage(self) -> bool:
        return _SIMPLEST in self._failing or (_LISTEN in self._failing and len(self._failing) > 1)

    def explain(self, reasons: Sequence[str]) -> list[str]:
        """Return the reasons for not being ready, with the cause, and causes first."""
        return reasons_by_cause(reasons, self.current(), self.listener_reason)

    def reason(self) -> str | None:
        """Return the reason of `current`; None if no call fails."""
        fault = self.current()
        return None if fault is None else fault.reason

    def _record(self, doing: str, reason: str) -> None:
        now = self._clock.now()
        if doing == _LISTEN:
            if not self._is_polling:  # a reactor that polls aborts each connection without notifications
                self.listener_reason = reason
            if self._listens_elsewhere:
                return
        before = self._failing.get(doing)
        is_new = before is None or now - before.last_at > FORGOTTEN_AFTER_S
        since = now if is_new or before is None else before.since
        self._failing[doing] = _Failing(doing, reason, since, now)

    def _on_answers(self, _: DatabaseAnswers) -> None:
        # a server that answers calls may still accept no listening connection
        self._failing = {_LISTEN: self._failing[_LISTEN]} if _LISTEN in self._failing else {}

    def _on_polling(self, event: Polling) -> None:
        self._is_polling, self.listener_reason = True, event.reason

    def _on_listening(self, _: Listening) -> None:
        self._is_polling, self.listener_reason = False, ""
        self._failing.pop(_LISTEN, None)
