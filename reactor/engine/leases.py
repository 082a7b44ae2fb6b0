"""Keeps what is worked on ours: leases are extended three times as often as needed, and what is lost is let go of."""

from collections.abc import Callable, Mapping
from typing import Generic

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import DatabaseLost, Emit, LeaseLost
from reactor.core.model import Signal
from reactor.reactions.base import A, Reaction
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import Clock


class Leases(Generic[A]):
    """The leases of what one reaction's work has claimed."""

    def __init__(
        self,
        reaction: Reaction[A],
        claimed: Mapping[Signal, A],
        *,
        cut_short: Callable[[A], None],
        clock: Clock,
        emit: Emit,
        lease_s: float,
    ) -> None:
        """`cut_short` is called with each attempt whose row another reactor may have by now."""
        self._reaction = reaction
        self._claimed = claimed
        self._cut_short = cut_short
        self._clock = clock
        self._emit = emit
        self._lease_s = lease_s
        self._held = Wakeup()

    def hold(self) -> None:
        """Say that something was claimed."""
        self._held.set()

    async def extend_all(self) -> None:
        """Extend what is worked on, for ever; sleep for as long as nothing is held."""
        while True:
            if not self._claimed:
                await self._held.wait()
                continue
            await self._clock.sleep(self._lease_s / 3)
            held = [attempt for attempt in self._claimed.values() if not attempt.is_over]
            if held:
                await self._extend(held)

    async def _extend(self, held: list[A]) -> None:
        sent = self._clock.now()
        try:
            still_held = await self._reaction.extend(held)
        except DatabaseUnavailable as error:
            self._emit(DatabaseLost(doing=f"extend {self._reaction.name}", reason=str(error)))
            still_held = {a.signal.row_id for a in held if a.lease_until > self._clock.now()}
        else:
            for attempt in held:
                attempt.lease_until = sent + self._lease_s
        for attempt in held:
            if attempt.signal.row_id not in still_held and not attempt.is_over:
                self._lose(attempt)

    def _lose(self, attempt: A) -> None:
        """Another reactor may have the row: stop working on it, and settle nothing."""
        attempt.is_lost = True
        self._emit(LeaseLost(upload_id=attempt.signal.row_id))
        self._cut_short(attempt)
