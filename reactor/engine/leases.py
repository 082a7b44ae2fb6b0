"""Extends the leases of claimed rows, and cuts short the attempts whose lease is lost or whose deadline has passed.

Neither loop wakes for each claim: most attempts end before their lease must be extended.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic

from reactor.core.events import DatabaseLost, Emit, LeaseLost
from reactor.engine.completer import Completer
from reactor.engine.splitting import in_parts
from reactor.reactions.base import A, AttemptReaction
from reactor.runtime.clock import Clock

if TYPE_CHECKING:
    from uuid import UUID

_LONGEST_SLEEP_S: Final = 60.0


class Leases(Generic[A]):
    """The leases and deadlines of the attempts that one reaction has claimed."""

    def __init__(
        self, reaction: AttemptReaction[A], completer: Completer[A], *, clock: Clock, emit: Emit, lease_s: float
    ) -> None:
        self._reaction = reaction
        self._completer = completer
        self._clock = clock
        self._emit = emit
        self._lease_s = lease_s

    async def extend_leases(self) -> None:
        """Extend the leases of attempts without an outcome, every third of a lease. Never returns."""
        while True:
            await self._clock.sleep(self._lease_s / 3)
            held = [attempt for attempt in self._completer.claimed.values() if not attempt.is_over]
            if held:
                await self._extend(held)

    async def _extend(self, held: list[A]) -> None:
        sent = self._clock.now()
        still_held: set[UUID] = set()

        async def extend_part(part: Sequence[A]) -> None:
            extended = await self._reaction.extend(part)
            for attempt in part:
                if attempt.signal.row_id in extended:
                    attempt.lease_until = sent + self._lease_s
            still_held.update(extended)

        undone = await in_parts(held, extend_part)
        if error := undone.error or next((error for _, error in undone.refused), None):
            self._emit(DatabaseLost(doing=f"extend {self._reaction.name}", reason=str(error)))
        not_extended = [*undone.failed, *(attempt for attempt, _ in undone.refused)]
        still_held |= {each.signal.row_id for each in not_extended if each.lease_until > self._clock.now()}
        for attempt in held:
            if attempt.signal.row_id not in still_held and not attempt.is_over:
                attempt.is_lost = True  # another reactor may have claimed the row, so its outcome isn't settled
                self._emit(LeaseLost(upload_id=attempt.signal.row_id))
                self._completer.cut_short(attempt)

    async def end_late_attempts(self) -> None:
        """Cut attempts short at their deadline. Never returns."""
        # an attempt that begins during a sleep has its deadline after the sleep: no sleep is longer than the timeout
        longest_sleep_s = min(self._reaction.attempt_timeout_s, _LONGEST_SLEEP_S)
        while True:
            now = self._clock.now()
            for attempt in [each for each in self._completer.acting.values() if each.deadline <= now]:
                self._completer.cut_short(attempt)
            first_deadline = next((each.deadline for each in self._completer.acting.values()), now + longest_sleep_s)
            await self._clock.sleep(min(longest_sleep_s, max(0.0, first_deadline - now)))
