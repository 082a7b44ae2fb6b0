"""Traces of uploads, runs and reconciliations, as a real Jaeger shows them: one each, whole and without warnings."""

import secrets
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from uuid import UUID, uuid4

from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from support.app import App
from support.process import reactor
from support.servers.fault_server import answers, hangs
from support.servers.jaeger import JaegerSpan, assert_whole, has, named, only
from support.traced import TracedApp, one_by_one

from reactor import SyncReactorClient

BUSY = answers(503, "SlowDown", "Reduce your request rate.")
REFUSED = answers(400, "KeyTooLongError", "Your key is too long.")
RETRY_BASE_US = 100_000
LEASE_S = 2
ROUNDING_US = 2
"""A span's times are rounded twice: to a float, and to Jaeger's microseconds."""


def assert_attempts(spans: Sequence[JaegerSpan], outcomes: Sequence[str]) -> list[JaegerSpan]:
    """Assert that the attempts have these outcomes and links, and that only failed ones are red; return them."""
    attempts = named(spans, "upload.attempt")
    assert [span.tags["upload.outcome"] for span in attempts] == outcomes
    assert [span.tags["upload.attempt"] for span in attempts] == [*range(1, len(outcomes) + 1)]
    assert [span.links for span in attempts[:1]] == [()]
    for earlier, later in pairwise(attempts):
        [(_, linked)] = later.links
        assert linked == earlier.span_id
    failed = {span.span_id for span, outcome in zip(attempts, outcomes, strict=True) if outcome in {"retry", "dead"}}
    assert {span.span_id for span in spans if span.is_error} == failed
    return attempts


def microseconds(app: App, upload_id: UUID, column: str) -> int:
    """Return a time of an upload's row in microseconds since 1970."""
    [row] = app.all("select * from public.upload_queue where id = %s", upload_id)
    seconds: float = row[column].timestamp()
    return round(seconds * 1e6)


def test_an_upload_that_failed_twice_and_was_stored(traced: TracedApp) -> None:
    with traced.reacting():
        traced.s3.fault = one_by_one(BUSY, BUSY)
        with traced.app.conn.transaction():
            [upload] = traced.app.queue_uploads()
            trace_id = traced.trace_id(upload.id)
            created_at = microseconds(traced.app, upload.id, "created_at")
        spans = traced.jaeger.trace(trace_id, has("upload"))
    assert_whole(spans, "upload.queued")
    attempts = assert_attempts(spans, ["retry", "retry", "stored"])
    root, whole, waits = only(spans, "upload.queued"), only(spans, "upload"), named(spans, "upload.backoff")
    assert len(spans) == 13

    # the whole life, and the waits between its attempts, by the database's clock
    assert root.start == whole.start
    assert abs(whole.start - created_at) <= ROUNDING_US
    assert abs(whole.end - attempts[-1].end) <= ROUNDING_US
    steps = [attempts[0], waits[0], attempts[1], waits[1], attempts[2]]
    for earlier, later in pairwise(steps):
        assert abs(later.start - earlier.end) <= ROUNDING_US
    for wait, planned_us in zip(waits, [RETRY_BASE_US, 2 * RETRY_BASE_US], strict=True):
        assert wait.duration >= 0.85 * planned_us  # the jitter is 10 %
        assert "error.type" not in wait.tags
    for attempt in attempts:
        children = [span for span in spans if span.parent_id == attempt.span_id]
        assert [span.name for span in children] == ["upload.put", "upload.settle"]

    # what an SRE reads in a failed attempt, and in the others
    for attempt in attempts[:2]:
        assert attempt.tags["error.type"] == "STORAGE_UNAVAILABLE"
        assert attempt.tags["otel.status_description"].startswith("the object store answered 503 SlowDown: Reduce your")
        assert attempt.tags["upload.retry_in_s"] > 0
    assert "error.type" not in attempts[2].tags
    for span in (root, whole, *attempts):
        assert span.tags["upload.id"] == str(upload.id)
        assert span.tags["user.id"] == str(upload.user)
        assert (span.tags["upload.bucket"], span.tags["upload.bytes"]) == ("files", len(upload.content))
    assert whole.tags["upload.outcome"] == "stored"
    put, settle = named(spans, "upload.put")[-1], named(spans, "upload.settle")[-1]
    assert (put.tags["server.address"], put.tags["aws.s3.bucket"]) == ("127.0.0.1", "files")
    assert settle.tags["db.system.name"] == "postgresql"
    kinds = {span.name: span.tags["span.kind"] for span in spans}
    assert kinds == {
        "upload.queued": "producer", "upload.attempt": "consumer", "upload.put": "client", "upload.settle": "client",
        "upload.backoff": "internal", "upload": "internal",
    }  # fmt: skip
    assert {span.service for span in spans} == {"reactor"}
    assert attempts[0].process["service.instance.id"]


def test_an_upload_that_died(traced: TracedApp) -> None:
    with traced.reacting():
        traced.s3.fault = one_by_one(BUSY, REFUSED)
        [upload] = traced.app.queue_uploads()
        spans = traced.jaeger.trace(traced.trace_id(upload.id), has("upload"))
    assert_whole(spans, "upload.queued")
    _, last = assert_attempts(spans, ["retry", "dead"])
    whole = only(spans, "upload")
    assert last.tags["error.type"] == whole.tags["error.type"] == "STORAGE_REJECTED"
    assert "KeyTooLongError" in last.tags["otel.status_description"]
    assert whole.tags["upload.outcome"] == "dead"
    assert whole.tags["upload.error_message"] == last.tags["otel.status_description"]
    assert whole.tags["upload.next_step"]
    assert whole.tags["upload.retry_command"] == f"reactor uploads retry {upload.id}"
    assert abs(whole.end - microseconds(traced.app, upload.id, "updated_at")) <= ROUNDING_US


def test_an_attempt_whose_reactor_was_killed(traced: TracedApp) -> None:
    """Both reactors export the root span. Jaeger shows one, because the copies are equal."""
    with traced.reacting(OTEL_RESOURCE_ATTRIBUTES="host.name=first") as run:
        traced.s3.fault = hangs
        [upload] = traced.app.queue_uploads()
        trace_id = traced.trace_id(upload.id)
        assert [span.name for span in traced.jaeger.trace(trace_id)] == ["upload.queued"]
        run.kill()
    traced.s3.fault = one_by_one()
    with traced.reacting(OTEL_RESOURCE_ATTRIBUTES="host.name=second"):
        spans = traced.jaeger.trace(trace_id, has("upload"))
    assert_whole(spans, "upload.queued")
    lost, _ = assert_attempts(spans, ["retry", "stored"])
    assert lost.duration >= 0.9e6 * LEASE_S
    assert lost.tags["otel.status_description"] == "the worker stopped without settling"


def test_an_outage_of_the_store_defers_attempts_and_says_why(traced: TracedApp) -> None:
    with traced.reacting():
        traced.s3.fault = BUSY
        uploads = traced.app.queue_uploads(8)
        trace_ids = {traced.trace_id(upload.id) for upload in uploads}
        outage = {"upload.outcome": "deferred", "error.type": "STORAGE_UNAVAILABLE"}
        traced.wait_for(lambda: not trace_ids.isdisjoint(traced.jaeger.find(tags=outage)))
        traced.s3.fault = one_by_one()
        traced.wait_until_gone(*uploads)
        [trace_id, *_] = trace_ids.intersection(traced.jaeger.find(tags=outage))
        spans = traced.jaeger.trace(trace_id, has("upload"))
    assert_whole(spans, "upload.queued")
    attempts = named(spans, "upload.attempt")
    red = [span for span in attempts if span.tags["upload.outcome"] == "retry"]
    assert [span for span in spans if span.is_error] == red
    deferred = [span for span in attempts if span.tags["upload.outcome"] == "deferred" and "error.type" in span.tags]
    for span in deferred:
        assert span.tags["upload.error_message"].startswith("the object store answered 503 SlowDown")
        assert span.tags["upload.retry_in_s"] > 0


def test_a_run_that_was_failed_on_time(traced: TracedApp) -> None:
    """The run's worker has hung: its span is still open at the deadline."""
    app = traced.app
    with traced.reacting(), traced.tracer() as tracer:
        deadline = app.one("select clock_timestamp() + interval '0.3 s'")
        with tracer.start_as_current_span("interpret") as span:
            carrier: dict[str, str] = {}
            TraceContextTextMapPropagator().inject(carrier)
            run = app.begin_run(timeout_at=deadline, traceparent=carrier["traceparent"])
            traced.wait_for(lambda: app.run(run)["status"] == "failed")
        trace_id = f"{span.get_span_context().trace_id:032x}"
        spans = traced.jaeger.trace(trace_id, has("interpretation.timeout"))
    assert_whole(spans, "interpret")
    timeout = only(spans, "interpretation.timeout")
    assert abs(timeout.start - deadline.timestamp() * 1e6) <= ROUNDING_US
    assert abs(timeout.end - app.run(run)["completed_at"].timestamp() * 1e6) <= ROUNDING_US
    assert timeout.tags["interpretation.id"] == str(run)
    assert timeout.tags["user.id"] == str(app.run(run)["user_id"])
    assert timeout.tags["error.type"] == "INTERPRETATION_TIMEOUT"
    assert not timeout.is_error


def test_a_run_without_a_trace_of_the_app(traced: TracedApp) -> None:
    with traced.reacting():
        deadline = traced.app.one("select clock_timestamp() + interval '0.1 s'")
        run = traced.app.begin_run(timeout_at=deadline, traceparent=traced.app.one("select reactor.traceparent(null)"))
        trace_id = traced.app.run(run)["traceparent"].split("-")[1]
        spans = traced.jaeger.trace(trace_id)
    assert_whole(spans, "interpretation.timeout")


def test_a_reconciliation_links_to_what_it_changed(traced: TracedApp) -> None:
    traced.app.disable_triggers()
    uploads = traced.app.queue_uploads(3)
    trace_ids = {traced.trace_id(upload.id) for upload in uploads}
    done = reactor("reconcile", env=traced.environment(), cwd=traced.folder)
    assert (done.returncode, "stored 3" in done.stdout) == (0, True)
    found = [
        span
        for trace_id in traced.jaeger.find(operation="reconcile", tags={"reconcile.changed": "3"})
        for span in traced.jaeger.trace(trace_id)
        if {linked for linked, _ in span.links} == trace_ids
    ]
    [reconcile] = found
    assert_whole(found, "reconcile")
    assert not reconcile.is_error
    for trace_id, span_id in reconcile.links:
        spans = traced.jaeger.trace(trace_id, has("upload"))
        assert_whole(spans, "upload.queued")
        assert only(spans, "upload.queued").span_id == span_id
        attempt = only(spans, "upload.attempt")
        assert reconcile.start <= attempt.start <= attempt.end <= reconcile.end


def test_an_apps_own_trace_continues_through_the_reactor(traced: TracedApp) -> None:
    """The app's request has ended long before the reactor's second attempt, and ran on another machine."""
    content, user = secrets.token_bytes(500), uuid4()
    with (
        traced.reacting(),
        traced.tracer("shop", **{"host.name": "shop-1"}) as tracer,
        SyncReactorClient(traced.app.url) as client,
    ):
        traced.s3.fault = one_by_one(BUSY)
        with tracer.start_as_current_span("POST /files", kind=SpanKind.SERVER) as span:
            source = client.reserve_upload(user, sha256(content).hexdigest(), len(content), "text/plain", "a.txt")
            with tracer.start_as_current_span("PUT", kind=SpanKind.CLIENT):
                (traced.app.spool / "a").write_bytes(content)
            client.fail_upload(source.source_id, "files", f"{user}/a.txt", "a", "the store timed out")
        trace_id = f"{span.get_span_context().trace_id:032x}"
        spans = traced.jaeger.trace(trace_id, lambda spans: has("upload")(spans) and has("POST /files")(spans))
    request = only(spans, "POST /files")
    assert_whole(spans, "POST /files")
    assert_attempts(spans, ["retry", "stored"])
    assert {span.service for span in spans} == {"shop", "reactor"}
    queued = only(spans, "upload.queued")
    assert queued.parent_id == request.span_id
    assert request.start <= queued.start <= queued.end <= request.end
