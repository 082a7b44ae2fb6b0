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
            events.Listening: self._on_listening,
            events.ListenerLost: self._on_listener_lost,
            events.Polling: self._on_polling,
            events.NotificationRejected: self._on_rejected,
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_upload_rescued,
            events.LeaseLost: self._on_lease_lost,
            events.RunExpired: self._on_expired,
            events.Rescued: self._on_rescued,
            events.Swept: self._on_swept,
            events.UsageRepaired: self._on_repaired,
            events.BreakerMoved: self._on_breaker,
            events.DatabaseLost: self._on_database_lost,
            events.ReactorsChanged: self._on_reactors,
        }

    def _on_listening(self, _event: events.Listening) -> None:
        logger.info("listening for notifications: the test notification has arrived")

    def _on_listener_lost(self, event: events.ListenerLost) -> None:
        logger.warning("lost the listening connection ({}): reconnecting", event.reason)

    def _on_polling(self, event: events.Polling) -> None:
        logger.error(
            "notifications don't arrive ({}): polling the database every {:g} s", event.reason, event.interval_s
        )

    def _on_rejected(self, event: events.NotificationRejected) -> None:
        logger.debug("ignored a notification on {}: {}", event.channel, event.reason)

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        for settled in event.attempts:
            self._log_settled(settled)

    def _log_settled(self, event: events.AttemptSettled) -> None:
        log, outcome = self._bind(event.trail), event.outcome
        match outcome.verdict:
            case Verdict.STORED:
                began, ended = event.put or (0.0, 0.0)
                log.info("stored {} bytes in {:.3f} s", event.trail.size_bytes, ended - began)
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

    def _on_lease_lost(self, event: events.LeaseLost) -> None:
        logger.bind(upload_id=str(event.upload_id)).warning("lost the lease to another reactor: the outcome is dropped")

    def _on_expired(self, event: events.RunExpired) -> None:
        logger.bind(
            run_id=str(event.run_id), trace_id=event.context.trace_id.hex(), span_id=timeout_span_id(event.run_id).hex()
        ).warning("failed a stale run {:.3f} s after its deadline: {}", event.late_s, event.code)

    def _on_rescued(self, event: events.Rescued) -> None:
        logger.warning(
            "rescued {} abandoned uploads; {} more have no attempts left and are dead", event.retried, event.buried
        )

    def _on_swept(self, event: events.Swept) -> None:
        if event.missed:
            logger.warning("found {} overdue {} that no notification named", event.missed, event.reaction)
        logger.debug("swept {}: {} found in {:.3f} s", event.reaction, event.found, event.duration_s)

    def _on_repaired(self, event: events.UsageRepaired) -> None:
        if event.kind == "reservations":
            logger.warning("released {} reservations that were unused for a day", event.count)
        else:
            logger.info("repaired {} {}", event.count, event.kind)

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        if event.is_open:
            logger.error("store {} is down for everyone: uploads wait, and their attempts aren't counted", event.store)
        else:
            logger.info("store {} is up again", event.store)

    def _on_database_lost(self, event: events.DatabaseLost) -> None:
        logger.warning("couldn't {}: {}; retrying", event.doing, event.reason)

    def _on_reactors(self, event: events.ReactorsChanged) -> None:
        logger.info("{} reactors alive ({} joined, {} left)", event.alive, event.joined, event.left)

    def _bind(self, trail: Trail) -> Any:
        """Return a logger whose next line carries the ids of the row."""
        self._trail = trail
        return self._log
