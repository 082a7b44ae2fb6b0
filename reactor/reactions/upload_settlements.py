"""Settles attempts to store uploads, and emits how they ended."""

from collections.abc import Sequence

from reactor.core.events import (
    AttemptSettled,
    AttemptsSettled,
    DatabaseLost,
    Emit,
    LeaseLost,
    UploadDied,
)
from reactor.core.model import Due, Outcome, Verdict
from reactor.postgres.upload_answers import Settled, Settlement
from reactor.postgres.upload_queue import UploadQueue
from reactor.reactions.base import SettleResult
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.reactions.upload_refusals import UploadRefusals
from reactor.runtime.clock import Clock

_EVENT_BATCH = 8
"""Maximum number of settled attempts in one event. Log line and spans of an attempt take about 0.2 ms, and other tasks
wait until the whole event is handled."""


class UploadSettlements:
    """Settles attempts whose outcomes are known. An outcome that the database refuses becomes DEAD."""

    def __init__(self, queue: UploadQueue, refusals: UploadRefusals, *, clock: Clock, emit: Emit) -> None:
        self._queue = queue
        self._refusals = refusals
        self._clock = clock
        self._emit = emit

    async def settle(self, ended: Sequence[tuple[UploadAttempt, Outcome]]) -> SettleResult[UploadAttempt]:
        """Commit the outcomes; see `AttemptReaction.settle`."""
        settling_at = self._clock.now() + self._clock.offset_s
        ended, trusted = self._refusals.suspects_last(ended) if self._refusals.suspects else (ended, len(ended))
        settlement = await self._queue.settle([(attempt.upload, outcome) for attempt, outcome in ended], trusted)
        ended, busy = self._without_busy(ended, settlement)
        settled = settlement.settled
        if len(settled) + len(settlement.refused) < len(ended):
            settled |= await self._confirm(ended, settlement, settling_at)
        if settlement.refused:
            settled |= {row: Settled(None, each.refused_at) for row, each in settlement.refused.items() if each.is_dead}
            ended = [
                (attempt, self._refusals.outcome(attempt, outcome, settlement.refused)) for attempt, outcome in ended
            ]
        due_again: list[Due] = []
        events: list[AttemptSettled] = []
        offset_s = self._clock.offset_s
        for attempt, outcome in ended:
            if (found := settled.get(attempt.signal.row)) is None:
                if (refused := settlement.refused.get(attempt.signal.row)) is not None:
                    due_again.append(self._refusals.set_aside(attempt.signal, refused))
                    continue
                # taken over, cancelled, or settled by a call without an answer: the next claim checks the row
                due_again.append(Due(attempt.signal, self._clock.database_now()))
                self._emit(LeaseLost(upload_id=attempt.upload.id))
                continue
            due_at, settled_at = found
            if due_at is not None:
                due_again.append(Due(attempt.signal, due_at))
            if outcome.verdict is Verdict.STORED:
                _, attempt.stored_file = attempt.result
            elif outcome.verdict is Verdict.DEAD:
                self._emit(UploadDied(attempt.upload.id, settled_at, outcome.code, outcome.message))
            put_times = (attempt.began + offset_s, attempt.ended + offset_s) if attempt.began else None
            events.append(AttemptSettled(attempt.trail, outcome, put_times, settling_at, settled_at))
        for first in range(0, len(events), _EVENT_BATCH):
            self._emit(AttemptsSettled(attempts=events[first : first + _EVENT_BATCH]))
        return SettleResult(later=due_again, busy=busy)

    def _without_busy(
        self, ended: Sequence[tuple[UploadAttempt, Outcome]], settlement: Settlement
    ) -> tuple[Sequence[tuple[UploadAttempt, Outcome]], Sequence[UploadAttempt]]:
        """Return the attempts that were settled or refused, and those to settle again later."""
        if not settlement.busy:
            return ended, ()
        for reason in {message for message in settlement.busy.values() if message}:
            self._emit(DatabaseLost(doing="settle uploads", reason=reason))
        rest = [(attempt, outcome) for attempt, outcome in ended if attempt.signal.row not in settlement.busy]
        return rest, [attempt for attempt, _ in ended if attempt.signal.row in settlement.busy]

    async def _confirm(
        self, ended: Sequence[tuple[UploadAttempt, Outcome]], settlement: Settlement, settling_at: float
    ) -> dict[int, Settled]:
        """Return the uploads that an earlier settlement of these attempts has stored, if its answer was lost."""
        known = settlement.settled.keys() | settlement.refused.keys()
        missing = {
            attempt.signal.row: (attempt, outcome) for attempt, outcome in ended if attempt.signal.row not in known
        }
        stored = await self._queue.confirm_stored([(attempt.upload, outcome) for attempt, outcome in missing.values()])
        confirmed: dict[int, Settled] = {}
        for row in stored:
            attempt, _ = missing[row]
            if self._clock.now() < attempt.lease_until:
                confirmed[row] = Settled(None, settling_at)
            else:  # another reactor may have stored the upload, and counted it: only its file is not needed any more
                _, attempt.stored_file = attempt.result
        return confirmed
