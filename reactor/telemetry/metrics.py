"""Events → metrics, as OpenTelemetry instruments: scraped by Prometheus at /metrics, and pushed to a collector.

What the reactor does is counted as it happens. What the database holds is read from the newest answer of
reactor.status(), so it survives restarts. No user id, upload id or path is ever a label.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from reactor.core import events
from reactor.core.model import Verdict
from reactor.telemetry.collector import Collector
from reactor.telemetry.export_queue import ExportQueue
from reactor.telemetry.exporter import EXPORT_FAILED, ExportLog, HttpSession, metric_exporter, muted
from reactor.telemetry.histograms import Histograms

Observe = Callable[[], Iterable[Observation]]


class Metrics:
    """The reactor's instruments."""

    def __init__(
        self,
        resource: Resource,
        *,
        version: str,
        timers: Callable[[], int] = lambda: 0,
        spool_free_bytes: Callable[[], int] = lambda: 0,
        status: Callable[[], Mapping[str, Any]] = dict,
        collector: Collector | None = None,
        export_queue: ExportQueue | None = None,
    ) -> None:
        """`timers`, `spool_free_bytes` and `status` are called when metrics are collected, in any thread.

        Metrics are pushed to `collector`. The spans that `export_queue` sent and lost are counted.
        """
        self._timers = timers
        self._spool_free_bytes = spool_free_bytes
        self._status = status
        histograms = Histograms()
        self._duration = histograms.create("storage.upload.duration", "how long an attempt took")
        self._reaction = histograms.create("storage.upload.reaction", "from due to the attempt's start")
        self._timeout_lag = histograms.create("interpretation.timeout_lag", "from a deadline to failed")
        self._wheel_lag = histograms.create("reactor.wheel.lag", "how late timers fire")
        self._registry = CollectorRegistry()
        self._registry.register(histograms)
        readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)]
        if collector is not None:
            readers.append(PeriodicExportingMetricReader(_Exporter(collector, histograms)))
        self._provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("reactor", version)
        self._timeouts = meter.create_counter("interpretation.timeouts", "{run}", "stale runs that were failed")
        self._missed = meter.create_counter("reactor.reconcile.missed", "{row}", "overdue rows never notified of")
        self._notifications = meter.create_counter("reactor.notifications", "{notification}", "received, by channel")
        self._rejected = meter.create_counter("reactor.notifications.rejected", "{notification}", "of unknown form")
        self._attempts = Counter[tuple[Verdict, str]]()
        self._open_stores: dict[str, bool] = {}
        self._is_listening = False
        self._create_observed(meter, export_queue)

    def prometheus(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self, within_s: float) -> None:
        """Push a last time. Blocks, and may exceed `within_s` if the collector hangs."""
        self._provider.shutdown(timeout_millis=1000 * within_s)

    def _create_observed(self, meter: Meter, export_queue: ExportQueue | None) -> None:
        """Create the instruments whose values are read when metrics are collected."""

        def gauge(name: str, unit: str, observe: Observe, description: str) -> None:
            meter.create_observable_gauge(name, [_callback(observe)], unit, description)

        def counter(name: str, unit: str, observe: Observe, description: str) -> None:
            meter.create_observable_counter(name, [_callback(observe)], unit, description)

        gauge("storage.queue.depth", "{upload}", self._depths, "uploads in the queue, by status")
        gauge("storage.queue.oldest_age", "s", self._figure("uploads", "oldest_due_age_s"), "since the oldest was due")
        gauge("interpretation.running", "{run}", self._figure("runs", "running"), "runs that are running")
        gauge("storage_usage.bytes", "By", self._by_plan, "stored bytes, by plan")
        gauge("reactor.wheel.timers", "{timer}", lambda: [Observation(self._timers())], "timers in the wheel")
        gauge("reactor.listener.up", "", lambda: [Observation(int(self._is_listening))], "1 while notifications arrive")
        gauge("reactor.spool.free_bytes", "By", lambda: [Observation(self._spool_free_bytes())], "room in the spools")
        gauge("reactor.breaker.open", "", self._breakers, "1 while a store is down for everyone")
        # observed, because the SDK's own counter would take a tenth of an upload's CPU time
        counter("storage.upload.attempts", "{attempt}", self._outcomes, "attempts by outcome")
        counter("quota.rejections", "{rejection}", self._rejections, "refused for want of quota")
        if export_queue is not None:
            counter(
                "reactor.spans",
                "{span}",
                lambda: [
                    Observation(export_queue.sent, {"outcome": "sent"}),
                    Observation(export_queue.lost, {"outcome": "lost"}),
                ],
                "spans that the collector took, and that were lost",
            )

    def _outcomes(self) -> Iterable[Observation]:
        return [
            Observation(count, {"outcome": outcome.value, "error_code": code})
            for (outcome, code), count in list(self._attempts.items())
        ]

    def _depths(self) -> Iterable[Observation]:
        uploads = self._status().get("uploads", {})
        return [
            Observation(uploads[status], {"status": status})
            for status in ("failed", "uploading", "dead", "cancelled")
            if status in uploads
        ]

    def _figure(self, section: str, key: str) -> Observe:
        return lambda: [Observation(value) for name, value in self._status().get(section, {}).items() if name == key]

    def _by_plan(self) -> Iterable[Observation]:
        return [Observation(row["bytes"], {"plan": row["plan"]}) for row in self._status().get("storage_usage", ())]

    def _rejections(self) -> Iterable[Observation]:
        return [
            Observation(row["count"], {"quota": row["quota"], "plan": row["plan"]})
            for row in self._status().get("quota_rejections", ())
        ]

    def _breakers(self) -> Iterable[Observation]:
        return [Observation(int(is_open), {"store": store}) for store, is_open in list(self._open_stores.items())]

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the method to call for each type of event."""
        return {
            events.Listening: lambda _event: self._set_listening(is_up=True),
            events.ListenerLost: lambda _event: self._set_listening(is_up=False),
            events.Polling: lambda _event: self._set_listening(is_up=False),
            events.Notified: lambda event: self._notifications.add(1, {"channel": event.channel}),
            events.NotificationRejected: lambda event: self._rejected.add(1, {"channel": event.channel}),
            events.AttemptsStarted: self._on_started,
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_rescued,
            events.RunExpired: self._on_expired,
            events.Swept: self._on_swept,
            events.UsageRepaired: self._on_repaired,
            events.BreakerMoved: self._on_breaker,
            events.TimerFired: lambda event: self._wheel_lag.observe(event.lag_s),
        }

    def _set_listening(self, *, is_up: bool) -> None:
        self._is_listening = is_up

    def _on_started(self, event: events.AttemptsStarted) -> None:
        for attempt in event.attempts:
            self._reaction.observe(attempt.lag_s)

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        self._attempts.update([(outcome.verdict, outcome.code or "") for _, outcome, *_ in event.attempts])
        for attempt in event.attempts:
            began, ended = attempt.put or (0.0, 0.0)
            self._duration.observe(ended - began)

    def _on_rescued(self, event: events.UploadRescued) -> None:
        if event.was_leased:
            self._attempts[event.verdict, event.code or "STORAGE_UNAVAILABLE"] += 1

    def _on_expired(self, event: events.RunExpired) -> None:
        self._timeouts.add(1, {"reason": event.code})
        self._timeout_lag.observe(event.late_s)

    def _on_swept(self, event: events.Swept) -> None:
        if event.missed:
            self._missed.add(event.missed, {"kind": event.reaction})

    def _on_repaired(self, event: events.UsageRepaired) -> None:
        if event.kind == "reservations":
            self._missed.add(event.count, {"kind": event.kind})

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        self._open_stores[event.store] = event.is_open


class _Exporter(MetricExporter):
    """The SDK's exporter; adds the histograms, and logs failures once in a while."""

    def __init__(self, collector: Collector, histograms: Histograms) -> None:
        super().__init__()
        self._histograms = histograms
        self._log = ExportLog(collector.name, "metrics")
        with muted():
            self._exporter = metric_exporter(collector, HttpSession(self._log.failed))

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> MetricExportResult:
        with muted():
            result = self._exporter.export(self._with_histograms(metrics_data), timeout_millis, **options)
        if result is MetricExportResult.SUCCESS:
            self._log.succeeded()
        else:
            self._log.failed(EXPORT_FAILED)  # the next push repeats everything: sums are cumulative
        return result

    def _with_histograms(self, metrics_data: MetricsData) -> MetricsData:
        # the first resource and scope are the reactor's: some of its gauges always have a value
        first_resource, *resources = metrics_data.resource_metrics
        first_scope, *scopes = first_resource.scope_metrics
        first_scope = replace(first_scope, metrics=[*first_scope.metrics, *self._histograms.otlp()])
        first_resource = replace(first_resource, scope_metrics=[first_scope, *scopes])
        return replace(metrics_data, resource_metrics=[first_resource, *resources])

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **options: Any) -> None:
        with muted():
            self._exporter.shutdown(timeout_millis, **options)


def _callback(observe: Observe) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _options: observe()
