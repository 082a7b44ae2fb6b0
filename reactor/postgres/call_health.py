"""Records which calls to the database fail, since when and why. Readiness reads it, and pauses of claims end with it.

A refused row isn't a failure: the database has answered. A statement that is no longer called is forgotten.
"""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from anyio import Event
from attrs import define, frozen

from reactor.core.errors import DatabaseForbidden, DatabaseRefused, DatabaseUnavailable
from reactor.core.events import DatabaseAnswers, Emit
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock

FORGOTTEN_AFTER_S: Final = 60.0
"""A failure counts for this long after its last repetition. A call takes up to 35 s, a pause up to 10 s."""


@define
class Failure:
    """A statement that fails."""

    statement: LiteralString
    since: float
    """Monotonic seconds of the first failure without a success since."""

    last_at: float
    reason: str
    is_busy: bool
    is_forbidden: bool


class CallHealth:
    """The statements that fail now."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[LiteralString, Failure] = {}
        self._answered = Event()

    def failures(self) -> list[Failure]:
        """Return the failing statements, the longest failing first."""
        oldest = self._clock.now() - FORGOTTEN_AFTER_S
        return sorted((each for each in self._failures.values() if each.last_at > oldest), key=lambda each: each.since)

    async def wait_for_answer(self) -> None:
        """Return when the database answers any statement while another one fails."""
        await self._answered.wait()

    def end_pauses(self) -> None:
        """Make `wait_for_answer` return now."""
        self._answered.set()
        self._answered = Event()

    def record_failure(self, statement: LiteralString, error: DatabaseUnavailable | DatabaseForbidden) -> None:
        now, before = self._clock.now(), self._failures.get(statement)
        is_new = before is None or before.last_at < now - FORGOTTEN_AFTER_S
        self._failures[statement] = Failure(
            statement=statement,
            since=now if is_new or before is None else before.since,
            last_at=now,
            reason=str(error),
            is_busy=isinstance(error, DatabaseUnavailable) and error.is_busy,
            is_forbidden=isinstance(error, DatabaseForbidden),
        )

    def record_answer(self, statement: LiteralString) -> float | None:
        """Record a success. Return the seconds for which calls failed if no statement fails any more; else None."""
        if not self._failures:
            return None
        first = min(each.since for each in self._failures.values())
        self._failures.pop(statement, None)
        self.end_pauses()
        return None if self.failures() else self._clock.now() - first


@frozen
class WatchedCalls:
    """A `QueryRunner` that records the failures of another one."""

    _calls: QueryRunner
    _health: CallHealth
    _emit: Emit

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run one statement; see `QueryRunner`."""
        try:
            rows = await self._calls.call(statement, parameters)
        except (DatabaseUnavailable, DatabaseForbidden) as error:
            self._health.record_failure(statement, error)
            raise
        except DatabaseRefused:
            self._record_answer(statement)
            raise
        self._record_answer(statement)
        return rows

    def _record_answer(self, statement: LiteralString) -> None:
        failed_for_s = self._health.record_answer(statement)
        if failed_for_s is not None:
            self._emit(DatabaseAnswers(after_s=failed_for_s))
