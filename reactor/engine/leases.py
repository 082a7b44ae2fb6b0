"""Extends the leases of claimed rows, and cuts short the attempts whose lease is lost or whose deadline has passed.

Neither loop wakes for each claim: most attempts end before their lease must be extended.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Generic

from reactor.core.events import DatabaseLost, Emit, LeaseLost
from reactor.core.model import Signal
from reactor.engine.completer import Completer
from reactor.engine.splitting import in_parts
from reactor.reactions.base import A, AttemptReaction
from reactor.runtime.clock import Clock

if TYPE_CHECKING:
    from uuid import UUID

_LONGEST_SLEEP_S: Final = 60.0

_LOCKED_S: Final = 1.0
"""Delay before the lease of a locked row is extended again: once the lock is released, an expired one may be taken."""


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
        """Extend the leases of all attempts that aren't settled, every third of a lease. Never returns."""
        every_s = self._lease_s / 3
        locked: set[Signal] = set()
        extended_at = self._clock.now()
        while True:
            await self._clock.sleep(min(_LOCKED_S, every_s) if locked else every_s)
            claimed = self._completer.claimed
            if self._clock.now() - extended_at >= every_s:
                extended_at = self._clock.now()
                held = [attempt for attempt in claimed.values() if not attempt.is_lost]
            else:
                held = [attempt for attempt in claimed.values() if attempt.signal in locked and not attempt.is_lost]
            locked = await self._extend(held) if held else set()

    async def _extend(self, held: list[A]) -> set[Signal]:
        """Extend these leases; return the signals of the rows that another session has locked.

        While a row is locked, no reactor can take it over, even after its lease has expired.
        """
        sent = self._clock.now()
        still_held: set[UUID] = set()
        locked: set[UUID] = set()

        async def extend_part(part: Sequence[A]) -> None:
            extension = await self._reaction.extend(part)
            locked.update(extension.locked)
            for attempt in part:
                if attempt.signal.row_id in extension.extended:
                    attempt.lease_until = sent + self._lease_s
            still_held.update(extension.extended | extension.locked)

        undone = await in_parts(held, extend_part)
        if error := undone.error or next((error for _, error in undone.refused), None):
            self._emit(DatabaseLost(doing=f"extend {self._reaction.name}", reason=str(error)))
        not_extended = [*undone.failed, *(attempt for attempt, _ in undone.refused)]
        still_held |= {each.signal.row_id for each in not_extended if each.lease_until > self._clock.now()}
        for attempt in held:
            # an attempt that has ended may have been settled since
            if attempt.signal.row_id not in still_held and not attempt.is_over:
                attempt.is_lost = True  # another reactor may have claimed the row, so its outcome isn't settled
                self._emit(LeaseLost(upload_id=attempt.signal.row_id))
                self._completer.cut_short(attempt)
        return {attempt.signal for attempt in held if attempt.signal.row_id in locked}

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
