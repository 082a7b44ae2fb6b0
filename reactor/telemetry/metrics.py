"""Events → metrics, as OpenTelemetry instruments: pulled by Prometheus at /metrics, pushed where a collector is named.

What the reactor does itself is counted as it happens. What is true of the database, whoever made it so, is read from
the newest answer of reactor.status(): it survives restarts. No user id, upload id or path is ever a label.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
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
from reactor.telemetry.distribution import Distribution
from reactor.telemetry.otlp import Collector, NotTaken
from reactor.telemetry.outbox import Complaint, Outbox

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

Observe = Callable[[], Iterable[Observation]]


class Metrics:
    """The reactor's instruments."""

    def __init__(
        self, resource: Resource, *, version: str, collector: Collector | None = None, outbox: Outbox | None = None
    ) -> None:
        """`collector` is pushed to; `outbox` is where spans wait, whose losses are counted."""
        spread: list[Distribution] = []

        def histogram(name: str, description: str) -> Distribution:
            spread.append(Distribution(name, "s", description, _SECONDS))
            return spread[-1]

        self._duration = histogram("storage.upload.duration", "how long an attempt took")
        self._reaction = histogram("storage.upload.reaction", "from due to the attempt's start")
        self._timeout_lag = histogram("interpretation.timeout_lag", "from a deadline to failed")
        self._wheel_lag = histogram("reactor.wheel.lag", "how late timers fire")
        self._registry = CollectorRegistry()
        readers: list[MetricReader] = [_Pull(self._registry, spread)]
        if collector is not None:
            readers.append(PeriodicExportingMetricReader(_Push(collector, spread)))
        self._provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("reactor", version)
        self._attempts = Counter[tuple[Verdict, str]]()
        self._timeouts = meter.create_counter("interpretation.timeouts", "{run}", "stale runs that were failed")
        self._missed = meter.create_counter("reactor.reconcile.missed", "{row}", "overdue rows never notified of")
        self._notifications = meter.create_counter("reactor.notifications", "{notification}", "heard, by channel")
        self._rejected = meter.create_counter("reactor.notifications.rejected", "{notification}", "not ours")
        self._open_stores: dict[str, bool] = {}
        self._listening = False
        self.timers: Callable[[], int] = lambda: 0
        """How many timers the wheel holds; set by who owns it."""
        self.spool_free_bytes: Callable[[], int] = lambda: 0
        self._status: dict[str, Any] = {}
        self._observe(meter, outbox)

    def hear_status(self, status: dict[str, Any]) -> None:
        """Take in the newest answer of reactor.status(), {} for none: what is true of the database is read from it."""
        self._status = status

    def prometheus(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self, within_s: float) -> None:
        """Push a last time. Blocks, a hanging collector for longer than `within_s`."""
        self._provider.shutdown(timeout_millis=1000 * within_s)

    def _observe(self, meter: Meter, outbox: Outbox | None) -> None:
        def gauge(name: str, unit: str, read: Observe, description: str) -> None:
            meter.create_observable_gauge(name, [_callback(read)], unit, description)

        gauge("storage.queue.depth", "{upload}", self._depths, "uploads in the queue, by status")
        gauge("storage.queue.oldest_age", "s", self._one("uploads", "oldest_due_age_s"), "since the oldest was due")
        gauge("interpretation.running", "{run}", self._one("runs", "running"), "runs that are running")
        gauge("storage_usage.bytes", "By", self._by_plan, "stored bytes, by plan")
        gauge("reactor.wheel.timers", "{timer}", lambda: [Observation(self.timers())], "timers in the wheel")
        gauge("reactor.listener.up", "", lambda: [Observation(int(self._listening))], "1 while notifications arrive")
        gauge("reactor.spool.free_bytes", "By", lambda: [Observation(self.spool_free_bytes())], "room in the spools")
        gauge("reactor.breaker.open", "", self._breakers, "1 while a store is down for everyone")
        # read when it is asked for: one of the meter's own counters costs a tenth of all that an upload costs
        meter.create_observable_counter(
            "storage.upload.attempts", [_callback(self._outcomes)], "{attempt}", "attempts by outcome"
        )
        meter.create_observable_counter(
            "quota.rejections", [_callback(self._rejections)], "{rejection}", "refused for want of quota"
        )
        if outbox is not None:
            meter.create_observable_counter(
                "reactor.spans",
                [_callback(lambda: [_spans(outbox.sent, "sent"), _spans(outbox.lost, "lost")])],
                "{span}",
                "spans that the collector took, and that were lost",
            )

    def _outcomes(self) -> Iterable[Observation]:
        return [
            Observation(count, {"outcome": outcome.value, "error_code": code})
            for (outcome, code), count in list(self._attempts.items())
        ]

    def _depths(self) -> Iterable[Observation]:
        uploads = self._status.get("uploads", {})
        return [
            Observation(uploads[status], {"status": status})
            for status in ("failed", "uploading", "dead", "cancelled")
            if status in uploads
        ]

    def _one(self, section: str, key: str) -> Observe:
        return lambda: [Observation(value) for name, value in self._status.get(section, {}).items() if name == key]

    def _by_plan(self) -> Iterable[Observation]:
        return [Observation(row["bytes"], {"plan": row["plan"]}) for row in self._status.get("storage_usage", ())]

    def _rejections(self) -> Iterable[Observation]:
        return [
            Observation(row["count"], {"quota": row["quota"], "plan": row["plan"]})
            for row in self._status.get("quota_rejections", ())
        ]

    def _breakers(self) -> Iterable[Observation]:
        return [Observation(int(is_open), {"store": store}) for store, is_open in self._open_stores.items()]

    # what happens

    def hearing(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return what is to be called for which events."""
        return {
            events.Listening: lambda _event: self._listens(is_up=True),
            events.ListenerLost: lambda _event: self._listens(is_up=False),
            events.Polling: lambda _event: self._listens(is_up=False),
            events.Notified: lambda event: self._notifications.add(1, {"channel": event.channel}),
            events.NotificationRejected: lambda event: self._rejected.add(1, {"channel": event.channel}),
            events.AttemptsStarted: lambda event: self._reaction.record([a.lag_s for a in event.attempts]),
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_rescued,
            events.RunExpired: self._on_expired,
            events.Swept: self._on_swept,
            events.UsageRepaired: self._on_repaired,
            events.BreakerMoved: self._on_breaker,
            events.TimerFired: lambda event: self._wheel_lag.record([event.lag_s]),
        }

    def _listens(self, *, is_up: bool) -> None:
        self._listening = is_up

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        self._attempts.update([(outcome.verdict, outcome.code or "") for _, outcome, *_ in event.attempts])
        self._duration.record([settled.duration_s for settled in event.attempts])

    def _on_rescued(self, event: events.UploadRescued) -> None:
        if event.was_leased:
            self._attempts[event.verdict, event.code or "STORAGE_UNAVAILABLE"] += 1

    def _on_expired(self, event: events.RunExpired) -> None:
        self._timeouts.add(1, {"reason": event.code})
        self._timeout_lag.record([event.late_s])

    def _on_swept(self, event: events.Swept) -> None:
        if event.missed:
            self._missed.add(event.missed, {"kind": event.reaction})

    def _on_repaired(self, event: events.UsageRepaired) -> None:
        if event.kind == "reservations":
            self._missed.add(event.count, {"kind": event.kind})

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        self._open_stores[event.store] = event.is_open


class _Pull(PrometheusMetricReader):
    """Answers Prometheus with all metrics."""

    def __init__(self, registry: CollectorRegistry, spread: Sequence[Distribution]) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._spread = spread

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> None:
        super()._receive_metrics(_complete(metrics_data, self._spread), timeout_millis, **options)


class _Push(MetricExporter):
    """Sends all metrics to a collector every OTEL_METRIC_EXPORT_INTERVAL milliseconds (60 000)."""

    def __init__(self, collector: Collector, spread: Sequence[Distribution]) -> None:
        super().__init__()
        self._collector = collector
        self._spread = spread
        self._complaint = Complaint(collector.name, "metrics")

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any) -> MetricExportResult:
        try:
            request = encode_metrics(_complete(metrics_data, self._spread))
            self._collector.send(request.SerializeToString(), within_s=timeout_millis / 1000)
        except NotTaken as error:
            self._complaint.failed(error.reason)  # the next push says it all again: sums are cumulative
            return MetricExportResult.FAILURE
        self._complaint.succeeded()
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:  # noqa: ARG002  # the base class's
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:  # noqa: ARG002  # the base class's
        self._collector.close()


def _complete(metrics_data: MetricsData, spread: Sequence[Distribution]) -> MetricsData:
    """Return what the instruments told, and the distributions with it."""
    of_resource, *resources = metrics_data.resource_metrics
    ours, *scopes = of_resource.scope_metrics  # there are such: some gauges always answer
    told = [metric for distribution in spread if (metric := distribution.metric()) is not None]
    ours = replace(ours, metrics=[*ours.metrics, *told])
    return MetricsData(resource_metrics=[replace(of_resource, scope_metrics=[ours, *scopes]), *resources])


def _callback(read: Observe) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _options: read()


def _spans(count: int, outcome: str) -> Observation:
    return Observation(count, {"outcome": outcome})
