"""`Changes` counts the rows that a drain changes, but no row that is handed back. The number of links is limited."""

from uuid import uuid4

from support.spooled import make_upload

from reactor.core.events import MOST_LINKS, AttemptSettled, AttemptsSettled, Event, RunExpired
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import context_of
from reactor.engine.changes import Changes


def settled(verdict: Verdict) -> AttemptSettled:
    return AttemptSettled(make_upload().trail(), Outcome(verdict=verdict), None, 0.0, 0.0)


def expired() -> RunExpired:
    run = uuid4()
    return RunExpired(run_id=run, code="", late_s=0.0, context=context_of(None, run), failed_at=0.0, user_id=None)


def emit(changes: Changes, event: Event) -> None:
    changes.subscriptions()[type(event)](event)


def test_settled_attempts_and_failed_runs_are_changes() -> None:
    changes = Changes()
    attempts = [settled(verdict) for verdict in (Verdict.STORED, Verdict.RETRY, Verdict.DEAD)]
    run = expired()
    emit(changes, AttemptsSettled(attempts=attempts))
    emit(changes, run)
    assert changes.count == 4
    assert changes.links == [*[attempt.trail.context for attempt in attempts], run.context]


def test_an_attempt_that_was_handed_back_is_not_counted_as_a_change() -> None:
    changes = Changes()
    emit(changes, AttemptsSettled(attempts=[settled(Verdict.DEFERRED)]))
    assert (changes.count, changes.links) == (0, [])


def test_every_change_is_counted_and_a_limited_number_is_linked() -> None:
    changes = Changes()
    for _ in range(3):
        emit(changes, AttemptsSettled(attempts=[settled(Verdict.STORED) for _ in range(100)]))
    assert (changes.count, len(changes.links)) == (300, MOST_LINKS)


def test_after_clear_the_count_starts_again() -> None:
    changes = Changes()
    emit(changes, expired())
    reported = changes.links
    changes.clear()
    assert (changes.count, changes.links) == (0, [])
    assert len(reported) == 1  # an event may still refer to this list, so clear() must not empty it
