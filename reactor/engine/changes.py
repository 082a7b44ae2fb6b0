"""Counts the rows that change during one `Reactor.drain`: settled attempts and failed runs."""

from collections.abc import Callable, Mapping
from typing import Any

from reactor.core.events import MOST_LINKS, AttemptsSettled, RunExpired
from reactor.core.model import Verdict
from reactor.core.trace_context import TraceContext


class Changes:
    """The number of changed rows, and the trace contexts of the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.links = list[TraceContext]()
        """The trace contexts of at least the first MOST_LINKS changed rows."""

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return a handler for each event type that this class counts."""
        return {AttemptsSettled: self._on_settled, RunExpired: self._on_expired}

    def clear(self) -> None:
        """Reset the count and the links."""
        self.count = 0
        self.links = []

    def _on_settled(self, event: AttemptsSettled) -> None:
        changed = [settled for settled in event.attempts if settled.verdict is not Verdict.DEFERRED]
        self.count += len(changed)
        room = max(0, MOST_LINKS - len(self.links))
        self.links += [settled.trail.context for settled in changed[:room]]

    def _on_expired(self, event: RunExpired) -> None:
        self.count += 1
        self.links.append(event.context)
