"""Events → log lines. A line about a row carries the ids of the row, its trace and its span."""

from collections.abc import Callable, Mapping
from typing import Any

from loguru import logger

from reactor.core import events
from reactor.core.model import Verdict
from reactor.core.trace_context import Trail, timeout_span_id


class LogLines:
    """Logs events."""

    def __init__(self) -> None:
        self._trail: Trail
        # one logger for all lines: making one for each line takes as long as discarding the line below the log level
        self._log = logger.patch(lambda record: record["extra"].update(self._trail.fields))

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the method to call for each type of event."""
        return {
            **_HANDLERS,
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_upload_rescued,
        }

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        for settled in event.attempts:
            self._log_settled(settled)

    def _log_settled(self, event: events.AttemptSettled) -> None:
        log, outcome = self._bind(event.trail), event.outcome
        match outcome.verdict:
            case Verdict.STORED:
                log.info("stored {} bytes in {:.3f} s", event.trail.size_bytes, event.put_s)
            case Verdict.RETRY:
                log.warning("failed, next attempt in {:.1f} s: {}: {}", outcome.delay_s, outcome.code, outcome.message)
            case Verdict.DEAD:
                log.error("dead: {}: {}", outcome.code, outcome.message)
            case Verdict.DEFERRED:
                log.debug("deferred: the attempt isn't counted")

    def _on_upload_rescued(self, event: events.UploadRescued) -> None:
        log = self._bind(event.trail)
        if event.verdict is Verdict.DEAD:
            log.error("dead: {}: no attempts are left", event.code)
        else:
            log.warning("the worker stopped without settling: the upload is due again")

    def _bind(self, trail: Trail) -> Any:
        """Return a logger whose next line carries the ids of the row."""
        self._trail = trail
        return self._log


def _on_expired(event: events.RunExpired) -> None:
    logger.bind(
        run_id=str(event.run_id), trace_id=event.context.trace_hex, span_id=timeout_span_id(event.run_id).hex()
    ).warning("failed a stale run {:.3f} s after its deadline: {}", event.late_s, event.code)


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
    if event.is_open:
        logger.error("store {} is down for everyone: uploads wait, and their attempts aren't counted", event.store)
    else:
        logger.info("store {} is up again", event.store)


def _line(level: str, text: str) -> Callable[[Any], None]:
    """Return a handler that logs `text`, in which {event.x} is the attribute x of the event."""
    return lambda event: _plain.log(level, text, event=event)


_plain = logger.opt(capture=False)  # else the event would be a field of the line

_HANDLERS: Mapping[type[Any], Callable[[Any], None]] = {
    events.Listening: _line("INFO", "listening for notifications: the test notification has arrived"),
    events.ListenerLost: _line("WARNING", "lost the listening connection ({event.reason}): reconnecting"),
    events.Polling: _line(
        "ERROR", "notifications don't arrive ({event.reason}): polling the database every {event.interval_s:g} s"
    ),
    events.NotificationRejected: _line("DEBUG", "ignored a notification on {event.channel}: {event.reason}"),
    events.LeaseLost: lambda event: logger.bind(upload_id=str(event.upload_id)).warning(
        "lost the lease to another reactor: the outcome is dropped"
    ),
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
