"""Uploads whose rows other sessions have locked, or whose changes the database refuses."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from loguru import logger

from reactor.core.errors import DatabaseRefused
from reactor.core.events import Emit, UploadDied
from reactor.core.lock_backoff import LockBackoff
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.postgres.upload_answers import Refused
from reactor.reactions.base import Attempt
from reactor.runtime.clock import Clock

if TYPE_CHECKING:
    from uuid import UUID

_SET_ASIDE_S: Final = 5.0
_LONGEST_SET_ASIDE_S: Final = 600.0
"""An upload whose row the database refuses to change at all is tried again after 5, 10, 20 … 600 s."""

_MOST_SUSPECTS: Final = 100


A = TypeVar("A", bound=Attempt)


class UploadRefusals:
    """Decides when to try locked and refused uploads again, and reports the refused ones."""

    def __init__(self, *, clock: Clock, emit: Emit) -> None:
        self._clock = clock
        self._emit = emit
        self._locked = LockBackoff[int]()
        self.has_locked = False
        """Whether a row of the last claims was locked. Read only."""
        self._set_aside: dict[UUID, int] = {}
        """Maps each upload that the database refuses to change at all to the number of tries."""
        self.suspects: deque[int] = deque(maxlen=_MOST_SUSPECTS)
        """The tenants whose uploads were refused last. Read only."""

    def check_again(self, locked: Collection[Signal], claimed: Collection[int]) -> list[Due]:
        """Schedule the locked ones of the rows of a claim; `claimed` are all its rows."""
        rows = {signal.row for signal in locked}
        self._locked.forget(row for row in claimed if row not in rows)
        self.has_locked = bool(locked) or len(self._locked) > 0
        if not locked:
            return []
        check_at = self._clock.database_now() + self._locked.delay_s(rows, self._clock.now())
        return [Due(signal, check_at) for signal in locked]

    def report(self, signal: Signal, refused: Refused) -> list[Due]:
        """Report an upload that wasn't claimed. Return when to try again if the row hasn't changed."""
        if refused.is_dead:
            self._emit(UploadDied(refused.id, refused.refused_at, DatabaseRefused.code, refused.message))
            logger.bind(upload_id=str(refused.id)).warning(
                "the database refuses the upload, which is dead: {}", refused.message
            )
            return []
        return [self.set_aside(signal, refused)]

    def set_aside(self, signal: Signal, refused: Refused) -> Due:
        """Report an upload whose row the database refuses to change at all. Return when to try again."""
        if len(self._set_aside) > _MOST_SUSPECTS:
            self._set_aside.pop(next(iter(self._set_aside)))
        tries = self._set_aside.pop(refused.id, 0)
        self._set_aside[refused.id] = tries + 1
        delay_s = min(_SET_ASIDE_S * 2.0 ** min(tries, 10), _LONGEST_SET_ASIDE_S)
        logger.bind(upload_id=str(refused.id)).error(
            "the database refuses to change the upload; next try in {:g} s: {}", delay_s, refused.message
        )
        return Due(signal, self._clock.database_now() + delay_s)

    def suspects_last(self, ended: Sequence[tuple[A, Outcome]]) -> tuple[Sequence[tuple[A, Outcome]], int]:
        """Order attempts by whether the database has refused one of their tenant; return them, and how many it hasn't.

        A settlement settles the first of them together. An app often refuses all uploads of one user.
        """
        trusted = [each for each in ended if each[0].tenant not in self.suspects]
        return [*trusted, *(each for each in ended if each[0].tenant in self.suspects)], len(trusted)

    def outcome(self, attempt: Attempt, outcome: Outcome, refused: Mapping[int, Refused]) -> Outcome:
        """Return the attempt's outcome; if the database refused its settlement, the upload is dead."""
        refusal = refused.get(attempt.signal.row)
        if refusal is None:
            return outcome
        if attempt.tenant not in self.suspects:
            self.suspects.append(attempt.tenant)
        return Outcome(Verdict.DEAD, code=DatabaseRefused.code, message=refusal.message) if refusal.is_dead else outcome
