"""A recorder of a reactor's events. Tests wait for events instead of sleeping."""

from collections.abc import Callable
from typing import Any, TypeVar

from anyio import Event as Flag
from anyio import fail_after

from reactor.core.events import AttemptsSettled, AttemptsStarted, Event

E = TypeVar("E")

BATCHES = (AttemptsStarted, AttemptsSettled)

PATIENCE_S = 20.0
"""Limit for an event to arrive on a busy machine. A test that passes never waits this long."""

_SHOWN = 12


class Recorder:
    """A listener that keeps all events in order. It splits a batch into its attempts."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._unread: list[Any] = []
        self._changed = Flag()

    def __call__(self, event: Event) -> None:
        events = event.attempts if isinstance(event, BATCHES) else [event]
        self.events += events
        self._unread += events
        self._changed.set()

    def events_of(self, kind: type[E], predicate: Callable[[E], bool] = lambda _event: True) -> list[E]:
        """Return all recorded events of this kind, including those that `wait_for` has returned."""
        return [event for event in self.events if isinstance(event, kind) and predicate(event)]

    def skip_recorded(self) -> None:
        """Make `wait_for` ignore the events recorded so far."""
        self._unread.clear()

    async def wait_for(
        self,
        kind: type[E],
        predicate: Callable[[E], bool] = lambda _event: True,
        *,
        within_s: float = PATIENCE_S,
    ) -> E:
        """Return the next matching event of this kind, and return it only once. Fails after `within_s`."""
        try:
            with fail_after(within_s):
                while True:
                    for event in self._unread:
                        if isinstance(event, kind) and predicate(event):
                            self._unread.remove(event)
                            return event
                    self._changed = Flag()
                    await self._changed.wait()
        except TimeoutError:
            last = "\n".join(f"  {event}" for event in self.events[-_SHOWN:])
            raise AssertionError(f"no {kind.__name__} within {within_s} s; the last events:\n{last}") from None

    async def wait_for_all(
        self,
        count: int,
        kind: type[E],
        predicate: Callable[[E], bool] = lambda _event: True,
        *,
        within_s: float = PATIENCE_S,
    ) -> list[E]:
        """Return the next `count` events of this kind that meet `predicate`."""
        return [await self.wait_for(kind, predicate, within_s=within_s) for _ in range(count)]
