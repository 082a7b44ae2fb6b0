"""The metrics at /metrics keep their names, because dashboards and alert rules use the names."""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE as CUMULATIVE
from opentelemetry.sdk.resources import Resource
from prometheus_client.parser import text_string_to_metric_families
from support.breaker_events import breaker_closed, breaker_opened
from support.manual_clock import ManualClock
from support.servers.otlp_receiver import receiving
from support.spooled import make_upload

from reactor.core import events
from reactor.core.backoff import Backoff
from reactor.core.breakers import Breakers
from reactor.core.errors import (
    ContentMismatch,
    FileTooLarge,
    ReactorError,
    SpoolFileMissing,
    SpoolPathForbidden,
    SpoolUnavailable,
    StorageRefused,
    StorageRejected,
    StorageUnavailable,
)
from reactor.core.model import Outcome, Verdict
from reactor.core.refusal import Guard, Place, Scope
from reactor.core.trace_context import Trail, context_of
from reactor.reactions.upload_failures import UploadFailures
from reactor.telemetry import known_series
from reactor.telemetry.collector import collector_of
from reactor.telemetry.metrics import Metrics

EXPECTED = {
    "storage_queue_depth": ("gauge", {"status"}),
    "storage_queue_oldest_age_seconds": ("gauge", set()),
    "storage_upload_attempts": ("counter", {"outcome", "error_code"}),
    "storage_upload_duration_seconds": ("histogram", set()),
    "storage_upload_reaction_seconds": ("histogram", set()),
    "storage_usage_bytes": ("gauge", {"plan"}),
    "interpretation_running": ("gauge", set()),
    "interpretation_timeouts": ("counter", {"reason"}),
    "interpretation_timeout_lag_seconds": ("histogram", set()),
    "quota_rejections": ("counter", {"quota", "plan"}),
    "reactor_rows_set_aside": ("gauge", {"reaction"}),
    "reactor_wheel_timers": ("gauge", set()),
    "reactor_wheel_lag_seconds": ("histogram", set()),
    "reactor_reconcile_missed": ("counter", {"kind"}),
    "reactor_listener_up": ("gauge", set()),
    "reactor_notifications": ("counter", {"channel"}),
    "reactor_notifications_rejected": ("counter", {"channel"}),
    "reactor_breaker_open": ("gauge", {"kind", "name"}),
    "reactor_spool_free_bytes": ("gauge", set()),
    "target_info": ("gauge", {"service_name"}),
}
"""Kind and labels of each metric. The parser removes the suffix _total from the name of a counter."""

STATUS: dict[str, Any] = {
    "uploads": {"failed": 5, "uploading": 2, "dead": 1, "cancelled": 0, "oldest_due_age_s": 12.5},
    "runs": {"running": 3},
    "storage_usage": [{"plan": "free", "bytes": 123, "users": 3}, {"plan": "pro", "bytes": 456, "users": 1}],
    "quota_rejections": [
        {"quota": "storage", "plan": "free", "count": 12},
        {"quota": "interpretations", "plan": "free", "count": 2},
    ],
}

UPLOAD = uuid4()
TRAIL = Trail(
    upload_id=UPLOAD,
    traceparent=None,
    bucket="secret-bucket",
    size_bytes=1,
    attempt=1,
    ordinal=1,
    created_at=0.0,
    due_at=0.0,
    claimed_at=0.0,
    user_id=uuid4(),
)


def settled(verdict: Verdict, code: str | None) -> events.AttemptsSettled:
    attempt = events.AttemptSettled(
        trail=TRAIL, outcome=Outcome(verdict, code=code), put=(0.1, 0.3), settling_at=0.0, settled_at=0.0
    )
    return events.AttemptsSettled(attempts=[attempt])


def scraped(metrics: Metrics, *emitted: events.Event) -> str:
    """Pass the events to the metrics, and return the text of /metrics."""
    subscriptions = metrics.subscriptions()
    for event in emitted:
        subscriptions[type(event)](event)
    return metrics.prometheus().decode()


@pytest.fixture
def status() -> dict[str, Any]:
    """The newest answer of reactor.status(); tests change it in place."""
    return {}


@pytest.fixture
def metrics(status: dict[str, Any]) -> Metrics:
    return Metrics(
        Resource({"service.name": "reactor"}),
        version="1",
        timers=lambda: 7,
        spool_free_bytes=lambda: 8,
        status=lambda: status,
    )


EVERYTHING: list[events.Event] = [
    events.Listening(),
    events.Notified(channel="reactor_uploads", rows=1),
    events.NotificationRejected(channel="reactor_runs", reason="garbage"),
    events.AttemptsStarted(attempts=[events.AttemptStarted(upload_id=UPLOAD, attempt=1, lag_s=0.003)]),
    settled(Verdict.STORED, None),
    settled(Verdict.RETRY, "STORAGE_UNAVAILABLE"),
    events.UploadRescued(trail=TRAIL, verdict=Verdict.DEAD, code="X", was_leased=True, rescued_at=1.0),
    events.RunExpired(
        run_id=uuid4(),
        code="INTERPRETATION_TIMEOUT",
        late_s=0.01,
        context=context_of(None, UPLOAD),
        failed_at=0.0,
        user_id=None,
    ),
    events.Swept(reaction="uploads", found=3, missed=2, duration_s=0.1),
    breaker_opened("s3://s3.example.org"),
    events.TimerFired(lag_s=0.001),
]


def families(text: str) -> Mapping[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_each_metric_has_the_promised_name_kind_and_labels(metrics: Metrics, status: dict[str, Any]) -> None:
    status.update(STATUS)
    text = scraped(metrics, *EVERYTHING)
    found = {
        name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for name, family in families(text).items()
    }
    assert found == EXPECTED
    assert str(UPLOAD) not in text
    assert "secret-bucket" not in text


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def nonzero(text: str, name: str) -> dict[tuple[str, ...], float]:
    return {labels: value for labels, value in samples(text, name).items() if value}


def test_events_are_counted(metrics: Metrics) -> None:
    text = scraped(metrics, *EVERYTHING)
    assert nonzero(text, "storage_upload_attempts_total") == {
        ("", "stored"): 1.0,
        ("STORAGE_UNAVAILABLE", "retry"): 1.0,
        ("X", "dead"): 1.0,
    }
    assert nonzero(text, "reactor_reconcile_missed_total") == {("uploads",): 2.0}
    assert samples(text, "reactor_listener_up") == {(): 1.0}
    assert samples(text, "reactor_breaker_open") == {("store", "s3://s3.example.org"): 1.0}
    assert samples(text, "storage_upload_reaction_seconds_count") == {(): 1.0}
    closed = breaker_closed("s3://s3.example.org")
    text = scraped(metrics, events.ListenerLost(reason="x"), closed)
    assert samples(text, "reactor_listener_up") == {(): 0.0}
    assert samples(text, "reactor_breaker_open") == {("store", "s3://s3.example.org"): 0.0}


def test_gauges_of_the_database_are_read_from_the_newest_status(metrics: Metrics, status: dict[str, Any]) -> None:
    status.update(STATUS)
    text = scraped(metrics)
    assert samples(text, "storage_queue_depth") == {
        ("failed",): 5.0,
        ("uploading",): 2.0,
        ("dead",): 1.0,
        ("cancelled",): 0.0,
    }
    assert samples(text, "storage_queue_oldest_age_seconds") == {(): 12.5}
    assert nonzero(text, "quota_rejections_total") == {("free", "storage"): 12.0, ("free", "interpretations"): 2.0}
    assert samples(text, "storage_usage_bytes") == {("free",): 123.0, ("pro",): 456.0, ("enterprise",): 0.0}
    assert samples(text, "reactor_wheel_timers") == {(): 7.0}
    assert samples(text, "reactor_spool_free_bytes") == {(): 8.0}


@pytest.mark.parametrize("newest", [{}, {"uploads": {}, "runs": {"running": 0}}])
def test_gauges_that_the_status_lacks_are_not_exported_and_counters_keep_their_values(
    metrics: Metrics, status: dict[str, Any], newest: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    status.update(STATUS)
    scraped(metrics)
    status.clear()
    status.update(newest)
    text = scraped(metrics)
    for name in ("storage_usage_bytes", "storage_queue_depth"):
        assert samples(text, name) == {}
    # a counter that disappears and comes back, or falls to 0, looks like new refusals
    assert nonzero(text, "quota_rejections_total") == {("free", "storage"): 12.0, ("free", "interpretations"): 2.0}
    assert samples(text, "storage_queue_oldest_age_seconds") == {}
    assert not caplog.records  # the SDK would log the exception of a callback


CONTRACT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "storage.queue.depth": {"status": ("failed", "uploading", "dead", "cancelled")},
    "storage.queue.oldest_age": {},
    "storage.upload.attempts": {
        "outcome": ("stored", "retry", "dead", "deferred"),
        "error_code": ("", "STORAGE_REFUSED"),
    },
    "storage.upload.duration": {},
    "storage.upload.reaction": {},
    "interpretation.running": {},
    "interpretation.timeouts": {"reason": ("INTERPRETATION_TIMEOUT", "INTERPRETATION_HEARTBEAT_LOST")},
    "interpretation.timeout_lag": {},
    "quota.rejections": {"quota": ("storage", "interpretations"), "plan": ("free", "pro", "enterprise")},
    "storage_usage.bytes": {"plan": ("free", "pro", "enterprise")},
    "reactor.wheel.timers": {},
    "reactor.wheel.lag": {},
    "reactor.reconcile.missed": {"kind": ("uploads", "runs", "reservations")},
    "reactor.listener.up": {},
    "reactor.notifications": {"channel": ("reactor_uploads", "reactor_runs")},
    "reactor.notifications.rejected": {"channel": ("reactor_uploads", "reactor_runs")},
    "reactor.breaker.open": {"kind": ("store", "spool"), "name": ("s3://h", "default", "second")},
    "reactor.spool.free_bytes": {},
}
"""The metrics that are promised, by their OpenTelemetry names, with labels and values that are known at the start."""

HISTOGRAMS = {"storage.upload.duration", "storage.upload.reaction", "interpretation.timeout_lag", "reactor.wheel.lag"}
PLACES = [Place(Guard.STORE, "s3://h"), Place(Guard.SPOOL, "default"), Place(Guard.SPOOL, "second")]


def test_every_promised_metric_exists_before_the_first_event() -> None:
    """An alert can't detect the first increase of a counter that appears with it."""
    text = scraped(Metrics(Resource({"service.name": "reactor"}), version="1", places=PLACES))
    found = families(text)
    for name, labels in CONTRACT.items():
        [family] = [each for key, each in found.items() if key.removesuffix("_seconds") == name.replace(".", "_")]
        for label, values in labels.items():
            assert {sample.labels[label] for sample in family.samples} >= set(values), (name, label)
        assert {sample.value for sample in family.samples} == {0.0}, name


def test_every_quota_of_every_plan_has_its_counter(metrics: Metrics, status: dict[str, Any]) -> None:
    status.update(STATUS | {"plans": ["enterprise", "free", "pro", "team"]})
    plans = {plan for plan, _ in samples(scraped(metrics), "quota_rejections_total")}
    assert plans == {"free", "pro", "enterprise", "team"}
    assert len(samples(scraped(metrics), "quota_rejections_total")) == 8
    assert samples(scraped(metrics), "storage_usage_bytes")["team",] == 0.0


def test_a_collector_receives_every_promised_metric_before_the_first_event() -> None:
    with receiving() as receiver:
        collector = collector_of({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": receiver.endpoint + "/v1/metrics"}, "metrics")
        metrics = Metrics(Resource({"service.name": "reactor"}), version="1", places=PLACES, collector=collector)
        metrics.close(10.0)
        receiver.wait_for_metric("storage.upload.attempts")
    assert set(receiver.metrics) >= CONTRACT.keys() - HISTOGRAMS


FAILURES = [
    StorageUnavailable("503", http_status=503),
    StorageRejected("no", http_status=404),
    StorageRejected("403", http_status=403, reason="AccessDenied", may_be_shared=True),
    StorageRefused("400", reason="ExpiredToken"),
    SpoolUnavailable("gone", reason="ENOENT"),
    SpoolUnavailable("no descriptor", reason="EMFILE", scope=Scope.PASSING),
    FileTooLarge("too large"),
    SpoolFileMissing("missing"),
    SpoolFileMissing("denied", reason="EACCES", may_be_shared=True),
    SpoolPathForbidden("outside"),
    ContentMismatch("other bytes"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: f"{error.code} {error.refusal.reason}")
@pytest.mark.parametrize("attempt", [1, 5])
def test_the_outcome_of_every_failure_is_a_known_series(error: ReactorError, attempt: int) -> None:
    """With many users, so that the breakers open too."""
    clock = ManualClock()
    failures = UploadFailures(
        Breakers("s3://h"), Backoff(base_s=1, factor=2, max_s=9, jitter=0), clock=clock, emit=lambda _event: None
    )
    for tenant in range(8):
        outcome = failures.outcome(tenant, make_upload()._replace(attempt=attempt), error)
        assert (outcome.verdict, outcome.code or "") in known_series.ATTEMPTS


BOUNDS = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 60.0 300.0 +Inf"


def test_histograms_have_cumulative_buckets_and_no_further_samples(metrics: Metrics) -> None:
    text = scraped(metrics, *(events.TimerFired(lag_s=lag_s) for lag_s in (0.0005, 0.001, 0.3, 1e9)))
    buckets = samples(text, "reactor_wheel_lag_seconds_bucket")
    assert " ".join(bound for (bound,) in buckets) == BOUNDS
    assert [buckets[bound,] for bound in ("0.001", "0.25", "0.5", "300.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert samples(text, "reactor_wheel_lag_seconds_sum") == {(): pytest.approx(1e9 + 0.3015)}
    assert "_created" not in text


def test_a_collector_receives_the_histograms_as_the_sdks_own() -> None:
    with receiving() as receiver:
        collector = collector_of({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": receiver.endpoint + "/v1/metrics"}, "metrics")
        metrics = Metrics(Resource({"service.name": "reactor"}), version="1", collector=collector)
        text = scraped(metrics, *(events.TimerFired(lag_s=lag_s) for lag_s in (0.0005, 0.001, 0.3, 1e9)))
        metrics.close(10.0)
        pushed = receiver.wait_for_metric("reactor.wheel.lag")
    [point] = pushed.histogram.data_points
    assert (pushed.unit, pushed.histogram.aggregation_temporality) == ("s", CUMULATIVE)
    assert [str(bound) for bound in point.explicit_bounds] == BOUNDS.split()[:-1]
    assert list(accumulate(point.bucket_counts)) == list(samples(text, "reactor_wheel_lag_seconds_bucket").values())
    assert (point.count, point.sum) == (4, pytest.approx(1e9 + 0.3015))
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    assert "reactor.spool.free_bytes" in receiver.metrics
    assert "storage.upload.duration" not in receiver.metrics  # the SDK, too, exports no histogram without a value
