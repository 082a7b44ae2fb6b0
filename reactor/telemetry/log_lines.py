"""Logs events. A log line about a row has the ids of the row, its trace and its span."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define
from loguru import logger

from reactor.core import events
from reactor.core.model import Verdict
from reactor.core.trace_context import timeout_span_id

_FIRST_INTERVAL_S: Final = 10.0
"""Seconds between the first and the second line of a repeated warning. The interval doubles with each line."""

_LONGEST_INTERVAL_S: Final = 600.0
_NEW_AFTER_S: Final = 120.0
"""A warning that hasn't occurred for this long is a new one."""

_MOST_WARNINGS: Final = 100


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


class RepeatedWarnings:
    """Logs a warning the first time, then at growing intervals with the number of times since the last line."""

    def __init__(self, text: str, now: Callable[[], float] = time.monotonic) -> None:
        """In `text`, {event.x} is the attribute x of the event."""
        self._text = text
        self._now = now
        self._warnings: dict[tuple[str, str], _Repeated] = {}

    def __call__(self, event: events.DatabaseLost) -> None:
        now = self._now()
        # numbers in a message (ports, seconds, processes) don't make another warning of it
        key = (event.doing, re.sub(r"\d+", "0", event.reason))
        seen = self._warnings.pop(key, None)
        if seen is None or now - seen.last_at > _NEW_AFTER_S:
            seen = _Repeated(next_at=now, interval_s=_FIRST_INTERVAL_S / 2)
        self._warnings[key] = seen
        if len(self._warnings) > _MOST_WARNINGS:
            del self._warnings[next(iter(self._warnings))]
        seen.last_at = now
        seen.count += 1
        if now >= seen.next_at:
            seen.interval_s = min(2 * seen.interval_s, _LONGEST_INTERVAL_S)
            seen.next_at = now + seen.interval_s
            times = f" ({seen.count} times since the last warning)" if seen.count > 1 else ""
            _plain.warning(self._text + "{times}", event=event, times=times)
            seen.count = 0

    def clear(self, _event: events.Event) -> None:
        """Log the next warning at once: what failed works again."""
        self._warnings.clear()


@define
class _Repeated:
    next_at: float
    interval_s: float
    last_at: float = 0.0
    count: int = 0


def _on_refused(event: events.RowsRefused) -> None:
    first = f"{len(event.row_ids)} {event.reaction}, for example {event.row_ids[0]}"
    words = "the database refuses {} (refused {} times so far; next try in {:.0f} s): {}"
    logger.error(words, first, event.times, event.retry_in_s, event.reason)


def _line(level: str, text: str) -> Callable[[Any], None]:
    """Return a function that logs `text`. In `text`, {event.x} is the attribute x of the event."""
    return lambda event: _plain.log(level, text, event=event)


_plain = logger.opt(capture=False)  # with capture, the event would become a field of the line
_database_lost = RepeatedWarnings("couldn't {event.doing}: {event.reason}; retrying")


def _on_answers(event: events.DatabaseAnswers) -> None:
    _database_lost.clear(event)
    logger.info("the database answers again after {:.1f} s", event.after_s)


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
    events.DatabaseLost: _database_lost,
    events.DatabaseAnswers: _on_answers,
    events.RowsRefused: _on_refused,
    events.RowsAccepted: _line(
        "INFO", "the database accepts {event.rows} {event.reaction} that it refused before; {event.set_aside} are left"
    ),
    events.ReactorsChanged: _line("INFO", "{event.alive} reactors alive ({event.joined} joined, {event.left} left)"),
}
"""Maps each type of event to the function that logs it."""
