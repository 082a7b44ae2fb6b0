"""Logs events. A log line about a row has the ids of the row, its trace and its span."""

from collections.abc import Callable, Mapping
from typing import Any

from loguru import logger

from reactor.core import events
from reactor.core.model import Verdict
from reactor.core.trace_context import timeout_span_id


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


def _on_swept(event: events.Swept) -> None:
    if event.missed:
        logger.warning("found {} overdue {} that no notification named", event.missed, event.reaction)
    logger.debug("swept {}: {} found in {:.3f} s", event.reaction, event.found, event.duration_s)


def _on_repaired(event: events.UsageRepaired) -> None:
    if event.kind == "reservations":
        logger.warning("released {} reservations that were unused for a day", event.count)
    else:
        logger.info("repaired {} {}", event.count, event.kind)


def _on_breaker(event: events.BreakerMoved) -> None:
    kind, name = event.place
    if event.opened is None:
        logger.info("{} {} answers again: its uploads continue", kind, name)
        return
    check = f"; check {event.opened.refusal.check}" if event.opened.refusal.check else ""
    whom = "everyone" if event.opened.is_for_all else "some users"
    words = "{} {} fails for {}, whose uploads wait and whose attempts aren't counted: {}{}"
    logger.error(words, kind, name, whom, event.opened.message, check)


def _line(level: str, text: str) -> Callable[[Any], None]:
    """Return a function that logs `text`. In `text`, {event.x} is the attribute x of the event."""
    return lambda event: _plain.log(level, text, event=event)


_plain = logger.opt(capture=False)  # with capture, the event would become a field of the line

LOG_LINES: Mapping[type[Any], Callable[[Any], None]] = {
    events.Listening: _line("INFO", "listening for notifications: the test notification has arrived"),
    events.ListenerLost: _line("WARNING", "lost the listening connection ({event.reason}): reconnecting"),
    events.Polling: _line(
        "ERROR", "notifications don't arrive ({event.reason}): polling the database every {event.interval_s:g} s"
    ),
    events.NotificationRejected: _line("DEBUG", "ignored a notification on {event.channel}: {event.reason}"),
    events.LeaseLost: lambda event: logger.warning(
        "lost the lease to another reactor: the outcome is dropped", upload_id=str(event.upload_id)
    ),
    events.AttemptsSettled: _on_settled,
    events.UploadRescued: _on_upload_rescued,
    events.RunExpired: _on_expired,
    events.Rescued: _line(
        "WARNING",
        "rescued {event.retried} abandoned uploads; {event.buried} more have no attempts left and are dead",
    ),
    events.Swept: _on_swept,
    events.UsageRepaired: _on_repaired,
    events.BreakerMoved: _on_breaker,
    events.DatabaseLost: _line("WARNING", "couldn't {event.doing}: {event.reason}; retrying"),
    events.ReactorsChanged: _line("INFO", "{event.alive} reactors alive ({event.joined} joined, {event.left} left)"),
}
"""Maps each type of event to the function that logs it."""
