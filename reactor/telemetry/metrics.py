"""Records events as metrics. Prometheus scrapes the metrics at /metrics; they can also be pushed to a collector.

Events are counted when they are emitted. Figures about rows come from the newest answer of reactor.status(), so they
survive restarts. No label is a user id, an upload id or a path.

Every series whose labels are known exists from the start, with 0, because an alert can't detect the first increase of a
counter that appears with it (telemetry/known_series.py). While the database doesn't answer, its counters keep their
values, and its gauges are absent, because their values are not known.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from reactor.core import events
from reactor.core.model import Verdict
from reactor.core.refusal import Place
from reactor.telemetry import known_series
from reactor.telemetry.collector import Collector
from reactor.telemetry.export_queue import ExportQueue
from reactor.telemetry.exporter import Exporter
from reactor.telemetry.histograms import Histograms

Observe = Callable[[CallbackOptions], Iterable[Observation]]


class Metrics:
    """The reactor's instruments."""

    def __init__(
        self,
        resource: Resource,
        *,
        version: str,
        timers: Callable[[], int] = lambda: 0,
        spool_free_bytes: Callable[[], int] = lambda: 0,
        status: Callable[[], Mapping[str, Any]] = lambda: known_series.ZERO_FIGURES,
        places: Sequence[Place] = (),
        collector: Collector | None = None,
        export_queue: ExportQueue | None = None,
    ) -> None:
        """`timers`, `spool_free_bytes` and `status` are called when metrics are collected, in any thread.

        `places` are the store and the spools: their breakers are exported from the start.
        Metrics are pushed to `collector`, if there is one. A metric counts the spans that `export_queue` sent and lost.
        """
        self._status = status
        histograms = Histograms()
        self._duration = histograms.create("storage.upload.duration", "duration of a put")
        self._reaction = histograms.create("storage.upload.reaction", "from due time to attempt")
        self._timeout_lag = histograms.create("interpretation.timeout_lag", "from deadline to failure")
        self._wheel_lag = histograms.create("reactor.wheel.lag", "time from the due time of a timer until it fires")
        self._registry = CollectorRegistry()
        self._registry.register(histograms)
        readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)]
        if collector is not None:
            readers.append(PeriodicExportingMetricReader(Exporter(collector, complete=histograms.added_to)))
        self._provider = MeterProvider(metric_readers=readers, resource=resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("reactor", version)
        self._timeouts = meter.create_counter("interpretation.timeouts", "{run}", "stale runs that were failed")
        self._missed = meter.create_counter("reactor.reconcile.missed", "{row}", "overdue rows without a notification")
        self._notifications = meter.create_counter("reactor.notifications", "{notification}", "received, by channel")
        self._rejected = meter.create_counter("reactor.notifications.rejected", "{notification}", "ignored, by channel")
        for counter, label, values in (
            (self._timeouts, "reason", known_series.TIMEOUT_REASONS),
            (self._missed, "kind", known_series.MISSED_KINDS),
            (self._notifications, "channel", known_series.CHANNELS),
            (self._rejected, "channel", known_series.CHANNELS),
        ):
            for value in values:
                counter.add(0, {label: value})
        self._attempts = Counter[tuple[Verdict, str]](dict.fromkeys(known_series.ATTEMPTS, 0))
        self._plans = set(known_series.PLANS)
        self._rejections = dict.fromkeys(((quota, plan) for quota in known_series.QUOTAS for plan in self._plans), 0)
        self._is_listening = meter.create_gauge("reactor.listener.up", "", "1 while notifications arrive")
        self._is_listening.set(0)
        self._set_aside = meter.create_gauge("reactor.rows.set_aside", "{row}", "rows that the database refuses")
        for reaction in ("uploads", "runs"):
            self._set_aside.set(0, {"reaction": reaction})
        self._is_open = meter.create_gauge(
            "reactor.breaker.open", "", "1 while a store, bucket or spool fails for everyone"
        )
        for place in places:
            self._set_open(place, 0)

        # values that are read when metrics are collected
        gauge, observable_counter = meter.create_observable_gauge, meter.create_observable_counter
        gauge("storage.queue.depth", [self._depths], "{upload}", "uploads in the queue, by status")
        oldest = self._figure("uploads", "oldest_due_age_s")
        gauge("storage.queue.oldest_age", [oldest], "s", "time since the oldest upload was due")
        gauge("interpretation.running", [self._figure("runs", "running")], "{run}", "runs that are running")
        gauge("storage_usage.bytes", [self._usage], "By", "stored bytes, by plan")
        gauge("reactor.wheel.timers", [lambda _: [Observation(timers())]], "{timer}", "timers in the wheel")
        gauge("reactor.spool.free_bytes", [lambda _: [Observation(spool_free_bytes())]], "By", "least free space")
        # observable, because a normal counter of the SDK would take a tenth of an upload's CPU time
        observable_counter("storage.upload.attempts", [self._outcomes], "{attempt}", "attempts, by outcome")
        observable_counter("quota.rejections", [self._refused_by_quota], "{rejection}", "refused by a quota")
        if export_queue is not None:
            observable_counter(
                "reactor.spans", [export_queue.observe], "{span}", "spans that were sent to the collector or lost"
            )

    def prometheus(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self, within_s: float) -> None:
        """Push the metrics once more. Blocks for `within_s`, or longer if the collector hangs."""
        self._provider.shutdown(timeout_millis=1000 * within_s)

    def _outcomes(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(count, {"outcome": outcome.value, "error_code": code})
            for (outcome, code), count in list(self._attempts.items())
        ]

    def _depths(self, _: CallbackOptions) -> Iterable[Observation]:
        uploads = self._status().get("uploads", {})
        statuses = [status for status in ("failed", "uploading", "dead", "cancelled") if status in uploads]
        return [Observation(uploads[status], {"status": status}) for status in statuses]

    def _figure(self, section: str, key: str) -> Observe:
        return lambda _: [Observation(value) for name, value in self._status().get(section, {}).items() if name == key]

    def _usage(self, _: CallbackOptions) -> Iterable[Observation]:
        status = self._status()
        if "storage_usage" not in status:
            return []
        stored = dict.fromkeys(self._plans_of(status), 0) | {
            row["plan"]: row["bytes"] for row in status["storage_usage"]
        }
        return [Observation(stored_bytes, {"plan": plan}) for plan, stored_bytes in sorted(stored.items())]

    def _refused_by_quota(self, _: CallbackOptions) -> Iterable[Observation]:
        status = self._status()
        known = dict.fromkeys(((quota, plan) for quota in known_series.QUOTAS for plan in self._plans_of(status)), 0)
        counts = {(row["quota"], row["plan"]): row["count"] for row in status.get("quota_rejections", ())}
        self._rejections = known | self._rejections | counts
        return [Observation(count, {"quota": quota, "plan": plan}) for (quota, plan), count in self._rejections.items()]

    def _plans_of(self, status: Mapping[str, Any]) -> set[str]:
        self._plans |= {*status.get("plans", ())}
        return self._plans

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the method to call for each type of event."""
        return {
            events.Listening: lambda _event: self._is_listening.set(1),
            events.ListenerLost: lambda _event: self._is_listening.set(0),
            events.Polling: lambda _event: self._is_listening.set(0),
            events.Notified: lambda event: self._notifications.add(1, {"channel": event.channel}),
            events.NotificationRejected: lambda event: self._rejected.add(1, {"channel": event.channel}),
            events.AttemptsStarted: lambda event: self._reaction.record([each.lag_s for each in event.attempts]),
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_rescued,
            events.RunExpired: self._on_expired,
            events.Swept: self._on_swept,
            events.UsageRepaired: self._on_repaired,
            events.BreakerMoved: self._on_breaker,
            events.RowsRefused: lambda event: self._set_aside.set(event.set_aside, {"reaction": event.reaction}),
            events.RowsAccepted: lambda event: self._set_aside.set(event.set_aside, {"reaction": event.reaction}),
            events.TimerFired: lambda event: self._wheel_lag.record([event.lag_s]),
        }

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        self._set_open(event.place, int(event.is_open))

    def _set_open(self, place: Place, value: int) -> None:
        self._is_open.set(value, {"kind": place.kind.value, "name": place.name})

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        self._attempts.update([(each.outcome.verdict, each.outcome.code or "") for each in event.attempts])
        self._duration.record([attempt.put_s for attempt in event.attempts])

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
