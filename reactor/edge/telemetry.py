"""Events → log lines and metrics, in this one place. Telemetry listens; it never interrupts.

Metrics are OpenTelemetry instruments, read by Prometheus at /metrics. No user id, upload id or path is ever a label.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from loguru import logger
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from reactor.core import events
from reactor.core.events import Event
from reactor.core.model import Verdict

_LATER_S = 0.005
"""A log line or metric costs 20 to 100 µs: nothing that an upload should wait for between NOTIFY and attempt."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Telemetry:
    """Hears every event of one reactor."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        self._provider = MeterProvider(
            metric_readers=[reader],
            resource=Resource.create({"service.name": "reactor", "service.version": version}),
            views=[View(instrument_type=Histogram, aggregation=ExplicitBucketHistogramAggregation(_SECONDS))],
            shutdown_on_exit=False,
        )
        meter = self._provider.get_meter("reactor", version)
        self._attempts = meter.create_counter("storage.upload.attempts", "{attempt}", "attempts by outcome")
        self._duration = meter.create_histogram("storage.upload.duration", "s", "how long an attempt took")
        self._reaction = meter.create_histogram("storage.upload.reaction", "s", "from due to the attempt's start")
        self._timeouts = meter.create_counter("interpretation.timeouts", "{run}", "stale runs that were failed")
        self._timeout_lag = meter.create_histogram("interpretation.timeout_lag", "s", "from a deadline to failed")
        self._wheel_lag = meter.create_histogram("reactor.wheel.lag", "s", "how late timers fire")
        self._missed = meter.create_counter("reactor.reconcile.missed", "{row}", "overdue rows never notified of")
        self._notifications = meter.create_counter("reactor.notifications", "{notification}", "heard, by channel")
        self._rejected = meter.create_counter("reactor.notifications.rejected", "{notification}", "not ours")
        self._events: list[Event] = []
        self._open_stores: dict[str, bool] = {}
        self._listening = False
        self.timers: Callable[[], int] = lambda: 0
        """How many timers the wheel holds; set by who owns it."""
        self.spool_free_bytes: Callable[[], int] = lambda: 0
        self.status: dict[str, Any] = {}
        """The newest answer of reactor.status(); gauges of the database's state are read from it."""
        self._observe(meter)
        self._hear: dict[type[Any], Callable[[Any], None]] = {
            events.Listening: self._on_listening,
            events.ListenerLost: self._on_listener_lost,
            events.Polling: self._on_polling,
            events.Notified: self._on_notified,
            events.NotificationRejected: self._on_rejected,
            events.AttemptStarted: self._on_started,
            events.AttemptSettled: self._on_settled,
            events.LeaseLost: self._on_lease_lost,
            events.RunExpired: self._on_expired,
            events.Rescued: self._on_rescued,
            events.Swept: self._on_swept,
            events.BooksMended: self._on_mended,
            events.BreakerMoved: self._on_breaker,
            events.DatabaseLost: self._on_database_lost,
            events.ReactorsChanged: self._on_reactors,
            events.TimerFired: lambda event: self._wheel_lag.record(event.lag_s),
        }

    def __call__(self, event: Event) -> None:
        """Take an event in; it is told of a moment later, when the work that it came from is on its way."""
        if not self._events:
            asyncio.get_running_loop().call_later(_LATER_S, self.flush)
        self._events.append(event)

    def flush(self) -> None:
        """Tell of every event that was taken in."""
        events, self._events = self._events, []
        for event in events:
            self._hear[type(event)](event)

    def prometheus(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        self.flush()
        return generate_latest(self._registry)

    def close(self) -> None:
        self.flush()
        self._provider.shutdown()

    def _observe(self, meter: Any) -> None:
        def gauge(name: str, unit: str, read: Callable[[], Iterable[Observation]]) -> None:
            def callback(_options: CallbackOptions) -> Iterable[Observation]:
                return read()

            meter.create_observable_gauge(name, [callback], unit)

        def depths() -> Iterable[Observation]:
            uploads = self.status.get("uploads", {})
            return [
                Observation(uploads[status], {"status": status})
                for status in ("failed", "uploading", "dead", "cancelled")
                if status in uploads
            ]

        def one(section: str, key: str) -> Callable[[], Iterable[Observation]]:
            return lambda: [Observation(self.status[section][key])] if section in self.status else []

        gauge("storage.queue.depth", "{upload}", depths)
        gauge("storage.queue.oldest_age", "s", one("uploads", "oldest_due_age_s"))
        gauge("interpretation.running", "{run}", one("runs", "running"))
        gauge("reactor.wheel.timers", "{timer}", lambda: [Observation(self.timers())])
        gauge("reactor.listener.up", "", lambda: [Observation(int(self._listening))])
        gauge("reactor.spool.free_bytes", "By", lambda: [Observation(self.spool_free_bytes())])
        gauge(
            "reactor.breaker.open",
            "",
            lambda: [Observation(int(is_open), {"store": store}) for store, is_open in self._open_stores.items()],
        )

    def _on_listening(self, _event: events.Listening) -> None:
        self._listening = True
        logger.info("listening: a notification came back")

    def _on_listener_lost(self, event: events.ListenerLost) -> None:
        self._listening = False
        logger.warning("the listening connection was lost ({}): reconnecting", event.reason)

    def _on_polling(self, event: events.Polling) -> None:
        self._listening = False
        logger.error(
            "notifications don't arrive (is REACTOR_LISTEN_URL a transaction pooler?): polling every {:g} s",
            event.interval_s,
        )

    def _on_notified(self, event: events.Notified) -> None:
        self._notifications.add(1, {"channel": event.channel})

    def _on_rejected(self, event: events.NotificationRejected) -> None:
        self._rejected.add(1, {"channel": event.channel})
        logger.debug("ignored a notification on {}: {}", event.channel, event.reason)

    def _on_started(self, event: events.AttemptStarted) -> None:
        self._reaction.record(event.lag_s)

    def _on_settled(self, event: events.AttemptSettled) -> None:
        self._attempts.add(1, {"outcome": event.verdict.value, "error_code": event.code or ""})
        self._duration.record(event.duration_s)
        log = logger.bind(upload_id=str(event.upload_id), attempt=event.attempt, trace_id=event.trace_id)
        match event.verdict:
            case Verdict.STORED:
                log.info("stored {} bytes in {:.3f} s", event.size_bytes, event.duration_s)
            case Verdict.RETRY:
                log.warning("failed, next try in {:.1f} s: {}: {}", event.delay_s, event.code, event.message)
            case Verdict.DEAD:
                log.error("dead: {}: {}", event.code, event.message)
            case Verdict.DEFERRED:
                log.debug("handed back unspent")

    def _on_lease_lost(self, event: events.LeaseLost) -> None:
        logger.warning("lost the lease of upload {}: its outcome is dropped", event.upload_id)

    def _on_expired(self, event: events.RunExpired) -> None:
        self._timeouts.add(1, {"reason": event.code})
        self._timeout_lag.record(event.late_s)
        logger.bind(run_id=str(event.run_id), trace_id=event.trace_id).warning(
            "failed a stale run, {:.3f} s after its deadline: {}", event.late_s, event.code
        )

    def _on_rescued(self, event: events.Rescued) -> None:
        logger.warning("rescued {} abandoned uploads, buried {}", event.retried, event.buried)

    def _on_swept(self, event: events.Swept) -> None:
        if event.missed:
            self._missed.add(event.missed, {"kind": event.reaction})
            logger.warning("{} overdue {} that no notification told of", event.missed, event.reaction)
        logger.debug("swept {}: {} found in {:.3f} s", event.reaction, event.found, event.duration_s)

    def _on_mended(self, event: events.BooksMended) -> None:
        if event.kind == "reservations":
            self._missed.add(event.count, {"kind": event.kind})
            logger.warning("gave back {} reservations that nobody had come for in a day", event.count)
        else:
            logger.info("mended {} {}", event.count, event.kind)

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        self._open_stores[event.store] = event.is_open
        if event.is_open:
            logger.error("store {} is down for everyone: uploads wait, their tries aren't counted", event.store)
        else:
            logger.info("store {} answers again", event.store)

    def _on_database_lost(self, event: events.DatabaseLost) -> None:
        logger.warning("couldn't {}: {}; trying again", event.doing, event.reason)

    def _on_reactors(self, event: events.ReactorsChanged) -> None:
        logger.info("{} reactors alive ({} joined, {} left)", event.alive, event.joined, event.left)
