"""Logs events. A log line about a row has the ids of the row, its trace and its span.

A warning that repeats is logged the first time, and then at growing intervals with a count (telemetry/repetition.py).
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from loguru import logger

from reactor.core import events
from reactor.core.counted import counted
from reactor.core.model import Verdict
from reactor.core.trace_context import timeout_span_id
from reactor.telemetry.repetition import Repetition, kind_of


def _add_ids(record: Any) -> None:
    """Replace the field `trail` of a line with the trail's ids."""
    record["extra"] |= record["extra"].pop("trail").fields


# One logger with a patcher, because a call of `patch` for each line would take as long as the line. The patcher runs
# only for lines that a sink takes.
_rows = logger.patch(_add_ids)


def _on_settled(event: events.AttemptsSettled) -> None:
    for attempt in event.attempts:
        outcome, trail = attempt.outcome, attempt.trail
        match outcome.verdict:
            case Verdict.STORED:
                _rows.info("stored {} bytes in {:.3f} s", trail.size_bytes, attempt.put_s, trail=trail)
            case Verdict.RETRY:
                words = "failed, next attempt in {:.1f} s: {}: {}"
                _rows.warning(words, outcome.delay_s, outcome.code, outcome.message, trail=trail)
            case Verdict.DEAD:
                _rows.error("dead: {}: {}", outcome.code, outcome.message, trail=trail)
            case Verdict.DEFERRED:
                _rows.debug("deferred: the attempt isn't counted", trail=trail)


def _on_upload_rescued(event: events.UploadRescued) -> None:
    if event.verdict is Verdict.DEAD:
        _rows.error("dead: {}: no attempts are left", event.code, trail=event.trail)
    else:
        _rows.warning("the worker stopped without settling: the upload is due again", trail=event.trail)


def _on_expired(event: events.RunExpired) -> None:
    fields = {"trace_id": event.context.trace_id.hex(), "span_id": timeout_span_id(event.run_id).hex()}
    words = "failed a stale run {:.3f} s after its deadline: {}"
    logger.warning(words, event.late_s, event.code, run_id=str(event.run_id), **fields)


def _on_repaired(event: events.UsageRepaired) -> None:
    if event.kind == "reservations":
        logger.warning("released {} unused for a day", counted(event.count, "reservation"))
    else:
        logger.info("repaired {}", counted(event.count, event.kind.removesuffix("s")))


def _on_rescued(event: events.Rescued) -> None:
    words = "rescued {}; {} more without attempts left died"
    logger.warning(words, counted(event.retried, "abandoned upload"), counted(event.buried, "upload"))


def _on_reactors_changed(event: events.ReactorsChanged) -> None:
    running = counted(event.alive, "reactor")
    logger.info("{} running ({} joined, {} left)", running, event.joined, event.left)


def _on_refused(event: events.RowsRefused) -> None:
    first = f"{counted(len(event.row_ids), event.reaction.removesuffix('s'))}, for example {event.row_ids[0]}"
    words = "the database refuses {} (refused {} so far; next try in {:.0f} s): {}"
    logger.error(words, first, counted(event.times, "time"), event.retry_in_s, event.reason)


def _on_accepted(event: events.RowsAccepted) -> None:
    accepted = counted(event.rows, event.reaction.removesuffix("s"))
    logger.info("the database accepts {} refused before; {} left", accepted, event.set_aside)


class LogLines:
    """Logs the events of one reactor."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` returns monotonic seconds, for the intervals of repeated warnings."""
        self._repetition = Repetition(now)
        self._has_listened = False

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the function that logs each type of event."""
        return {
            events.Listening: self._on_listening,
            events.ListenerLost: self._on_listener_lost,
            events.Polling: self._on_polling,
            events.NotificationRejected: self._on_rejected,
            events.LeaseLost: self._on_lease_lost,
            events.AttemptsSettled: _on_settled,
            events.UploadRescued: _on_upload_rescued,
            events.RunExpired: _on_expired,
            events.Rescued: _on_rescued,
            events.Swept: self._on_swept,
            events.UsageRepaired: _on_repaired,
            events.BreakerMoved: self._on_breaker,
            events.DatabaseLost: self._on_database_lost,
            events.DatabaseAnswers: self._on_database_answers,
            events.RowsRefused: _on_refused,
            events.RowsAccepted: _on_accepted,
            events.ReactorsChanged: _on_reactors_changed,
        }

    def _log(self, level: str, key: Hashable, words: str, *arguments: object, **fields: str) -> None:
        """Log a line that may repeat, unless it is left out."""
        more = self._repetition.more(key)
        if more is not None:
            logger.bind(**fields).log(level, words + "{}", *arguments, more)

    # the database

    def _on_database_lost(self, event: events.DatabaseLost) -> None:
        # a listening connection may lead to another address: only Listening ends its fault
        subject = "listener" if event.doing == "listen" else "database"
        key = (subject, event.doing, kind_of(event.reason))
        self._log("WARNING", key, "couldn't {}: {}; retrying", event.doing, event.reason)

    def _on_database_answers(self, event: events.DatabaseAnswers) -> None:
        lasted_s = self._repetition.ended_after_s(_is_about("database"))
        if lasted_s is not None:
            logger.info("the database answers again after {:.1f} s", max(lasted_s, event.after_s))

    # notifications

    def _on_listening(self, _: events.Listening) -> None:
        lasted_s = self._repetition.ended_after_s(_is_about("listener"))
        if lasted_s is not None or not self._has_listened:
            after = "" if lasted_s is None else f", after {lasted_s:.1f} s without notifications"
            logger.info("listening for notifications: the test notification has arrived{}", after)
        self._has_listened = True

    def _on_listener_lost(self, event: events.ListenerLost) -> None:
        key = ("listener", "lost", kind_of(event.reason))
        self._log("WARNING", key, "lost the listening connection ({}): reconnecting", event.reason)

    def _on_polling(self, event: events.Polling) -> None:
        words = "notifications don't arrive ({}): polling the database every {:g} s"
        self._log("ERROR", ("listener", "polling", kind_of(event.reason)), words, event.reason, event.interval_s)

    def _on_rejected(self, event: events.NotificationRejected) -> None:
        key = ("rejected", event.channel, kind_of(event.reason))
        self._log("DEBUG", key, "ignored a notification on {}: {}", event.channel, event.reason)

    def _on_swept(self, event: events.Swept) -> None:
        if event.missed:
            missed = f"{event.missed} overdue {event.reaction}"
            self._log("WARNING", ("missed", event.reaction), "found {} that no notification named", missed)
        logger.debug("swept {}: {} found in {:.3f} s", event.reaction, event.found, event.duration_s)

    # attempts

    def _on_lease_lost(self, event: events.LeaseLost) -> None:
        words = "lost the lease to another reactor: the outcome is dropped"
        self._log("WARNING", ("lease",), words, upload_id=str(event.upload_id))

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        kind, name = place = event.place
        if event.opened is None:
            lasted_s = self._repetition.ended_after_s(_is_about(place))
            if lasted_s is not None:
                logger.info("{} {} answers again after {:.1f} s: its uploads continue", kind, name, lasted_s)
            return
        opened = event.opened
        check = f"; check {opened.refusal.check}" if opened.refusal.check else ""
        whom = "everyone" if opened.is_for_all else "some users"
        words = "{} {} fails for {}, whose uploads wait and whose attempts aren't counted: {}{}"
        key = (place, opened.code, opened.refusal.reason, opened.is_for_all)
        self._log("ERROR", key, words, kind, name, whom, opened.message, check)


def _is_about(first: object) -> Callable[[Hashable], bool]:
    return lambda key: isinstance(key, tuple) and key[0] == first
