"""The spans of an upload's life, as a collector receives them: names, kinds, times, the tree and its links."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from support.app import App, QueuedUpload
from support.recorder import Recorder
from support.servers.otlp_receiver import ReceivedSpan, Receiver, receiving
from support.stubborn_store import StubbornStore

from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import StorageRejected, StorageUnavailable
from reactor.core.events import AttemptSettled, AttemptsSettled, RunExpired, UploadsClaimed
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import ROOT_SPAN_ID, Trail, context_of
from reactor.telemetry.traces import Traces

BUSY = StorageUnavailable("503 SlowDown", http_status=503)
GONE = StorageRejected("404 NoSuchBucket", http_status=404)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MS = 1_000_000
MIN_NS = 1_000
"""The shortest span: Jaeger shows a warning at a span without duration."""

HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200
"""Flags of OTLP: HAS_IS_REMOTE if the other flag is valid, IS_REMOTE if the span's parent is in another process."""
RETRY_BASE_MS = 100


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.endpoint + "/v1/traces")
        yield receiver


def spans_of(spans: list[ReceivedSpan], upload: QueuedUpload) -> list[ReceivedSpan]:
    """Return an upload's spans, in the order of their times."""
    own = [span for span in spans if span.attributes.get("upload.id") == str(upload.id)]
    return sorted(own, key=lambda span: (span.start, span.end))


def spans_named(spans: list[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


def only_span(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    [span] = spans_named(spans, name)
    return span


def assert_attempts_are_complete(spans: list[ReceivedSpan], root_id: str) -> None:
    """Assert that each attempt is a child of the root, links to the previous one, and contains put and settlement."""
    previous: ReceivedSpan | None = None
    for attempt in spans_named(spans, "upload.attempt"):
        assert (attempt.kind, attempt.parent_id) == ("CONSUMER", root_id)
        assert attempt.links == (((previous.trace_id, previous.span_id),) if previous else ())
        children = [span for span in spans if span.parent_id == attempt.span_id]
        assert [(span.name, span.kind) for span in children] == [("upload.put", "CLIENT"), ("upload.settle", "CLIENT")]
        put, settle = children
        assert attempt.start <= put.start <= put.end <= settle.start <= settle.end == attempt.end
        previous = attempt


async def test_an_upload_that_fails_twice_and_is_then_stored_is_one_readable_trace(
    app: App, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, BUSY, BUSY)
        traceparent = app.one("select traceparent from public.upload_queue where id = %s", upload.id)
        await recorder.wait_for_all(3, AttemptSettled)
    spans = spans_of(collector.wait_for("upload"), upload)
    _, trace_id, root_id, _ = traceparent.split("-")

    assert {span.trace_id for span in spans} == {trace_id}
    assert len({span.span_id for span in spans}) == len(spans) == 13
    siblings = [span for span in spans if span.parent_id == root_id and span.name != "upload"]
    assert [span.name for span in siblings] == [
        "upload.attempt",
        "upload.backoff",
        "upload.attempt",
        "upload.backoff",
        "upload.attempt",
    ]
    assert_attempts_are_complete(spans, root_id)

    root, whole = only_span(spans, "upload.queued"), only_span(spans, "upload")
    assert (root.kind, root.span_id, root.parent_id) == ("PRODUCER", root_id, "")
    assert (whole.kind, whole.parent_id) == ("INTERNAL", root_id)
    # there is no gap: each wait starts when an attempt ends, and ends when the next attempt starts
    assert root.start == whole.start < siblings[0].start
    assert root.end - root.start == MIN_NS
    for earlier, later in pairwise(siblings):
        assert earlier.end == later.start
    assert siblings[-1].end == whole.end
    waits = [(wait.end - wait.start) / MS for wait in spans_named(spans, "upload.backoff")]
    assert waits == [pytest.approx(RETRY_BASE_MS, abs=60), pytest.approx(2 * RETRY_BASE_MS, abs=60)]
    assert min(waits[0], waits[1] / 2) >= RETRY_BASE_MS
    assert {span.kind for span in spans_named(spans, "upload.backoff")} == {"INTERNAL"}

    attempts = spans_named(spans, "upload.attempt")
    assert [span.attributes["upload.outcome"] for span in attempts] == ["retry", "retry", "stored"]
    assert [span.attributes["upload.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.attributes.get("error.type") for span in attempts] == ["STORAGE_UNAVAILABLE"] * 2 + [None]
    assert all(span.attributes["reactor.wheel_lag_ms"] >= 0 for span in attempts)
    assert [span.message for span in attempts] == ["503 SlowDown", "503 SlowDown", ""]
    assert {span.span_id for span in spans if span.is_error} == {span.span_id for span in attempts[:2]}
    assert [span.attributes.get("upload.retry_in_s") for span in attempts] == [0.1, 0.2, None]
    for span in [root, whole, *attempts]:
        assert (span.attributes["upload.bucket"], span.attributes["upload.bytes"]) == ("files", len(upload.content))
        assert span.attributes["user.id"] == str(upload.user)
    assert (whole.attributes["upload.outcome"], whole.attributes["upload.attempt"]) == ("stored", 3)
    assert set(root.resource) == {"service.name", "service.version"}  # equal in each reactor
    for span in spans:
        assert span.resource["service.name"] == "reactor"
        assert span is root or span.resource["host.name"]
        assert span.flags & HAS_IS_REMOTE
        assert bool(span.flags & IS_REMOTE) is (span.parent_id == root_id)


async def test_a_dead_uploads_trace_ends_with_the_error(
    app: App, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, BUSY, GONE)
        await recorder.wait_for_all(2, AttemptSettled)
    spans = spans_of(collector.wait_for("upload"), upload)
    root = only_span(spans, "upload.queued")
    assert len(spans) == 9
    assert_attempts_are_complete(spans, root.span_id)
    first, second = spans_named(spans, "upload.attempt")
    assert (second.is_error, second.attributes["upload.outcome"]) == (True, "dead")
    assert second.attributes["error.type"] == "STORAGE_REJECTED"
    wait, whole = only_span(spans, "upload.backoff"), only_span(spans, "upload")
    assert (wait.start, wait.end) == (first.end, second.start)
    assert (whole.start, whole.end) == (root.start, second.end)
    assert whole.attributes["upload.error_message"] == second.message
    assert whole.attributes["upload.next_step"] == CATALOGUE["STORAGE_REJECTED"].next_step
    assert whole.attributes["upload.retry_command"] == f"reactor uploads retry {upload.id}"
    assert (whole.attributes["upload.outcome"], whole.attributes["error.type"]) == ("dead", "STORAGE_REJECTED")
    assert not whole.is_error


async def test_a_row_with_the_apps_own_traceparent_continues_the_apps_trace(
    app: App, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads(traceparent=f"00-{TRACE}-{SPAN}-01")
        await recorder.wait_for(AttemptSettled)
    spans = spans_of(collector.wait_for("upload"), upload)
    assert {span.trace_id for span in spans} == {TRACE}
    assert SPAN not in {span.span_id for span in spans}  # the app exports its own span
    queued = only_span(spans, "upload.queued")
    assert queued.parent_id == SPAN
    assert [span.name for span in spans if span.parent_id == queued.span_id] == ["upload", "upload.attempt"]


async def test_a_trace_that_the_app_did_not_sample_is_not_exported(
    app: App, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder):
        [unsampled] = app.queue_uploads(traceparent=f"00-{TRACE}-{SPAN}-00")
        await recorder.wait_for(AttemptSettled)
        [sampled] = app.queue_uploads()
        await recorder.wait_for(AttemptSettled)
    spans = collector.wait_for("upload")
    assert spans_of(spans, sampled)
    assert not spans_of(spans, unsampled)


@pytest.mark.parametrize(("ratio", "is_sampled"), [("0.0", False), ("1.0", True)])
async def test_the_sampler_decides_if_the_reactor_makes_the_root(
    app: App,
    recorder: Recorder,
    collector: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    ratio: str,
    *,
    is_sampled: bool,
) -> None:
    """The sampler ignores the flag 'sampled' in traceparents of the database, because the database always sets it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads()
        await recorder.wait_for(AttemptSettled)
        [of_the_app] = app.queue_uploads(traceparent=f"00-{TRACE}-{SPAN}-01")
        await recorder.wait_for(AttemptSettled)
    spans = collector.wait(lambda spans: any(span.trace_id == TRACE and span.name == "upload" for span in spans))
    assert bool(spans_of(spans, upload)) is is_sampled
    assert spans_of(spans, of_the_app)


@pytest.mark.parametrize(
    "garbage", ["", "x" * 100, f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more"]
)
async def test_an_invalid_traceparent_loses_only_the_apps_trace(
    app: App, recorder: Recorder, collector: Receiver, garbage: str
) -> None:
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads(traceparent=garbage)
        await recorder.wait_for(AttemptSettled)
    app.assert_stored(upload)
    spans = spans_of(collector.wait_for("upload"), upload)
    [trace_id] = {span.trace_id for span in spans}
    assert trace_id not in {TRACE, "0" * 32}
    root = only_span(spans, "upload.queued")
    assert {span.parent_id for span in spans if span.name in ("upload", "upload.attempt")} == {root.span_id}


async def test_a_planned_first_wait_is_a_span(app: App, recorder: Recorder, collector: Receiver) -> None:
    async with app.running_reactor(recorder):
        due = app.one("select clock_timestamp() + interval '0.3 s' as due")
        [upload] = app.queue_uploads(next_retry_at=due)
        await recorder.wait_for(AttemptSettled)
    spans = spans_of(collector.wait_for("upload"), upload)
    root, wait, attempt = (
        only_span(spans, "upload.queued"),
        only_span(spans, "upload.backoff"),
        only_span(spans, "upload.attempt"),
    )
    assert root.start == wait.start
    assert wait.end == attempt.start
    late_ms = attempt.start / MS - due.timestamp() * 1000
    assert wait.attributes["reactor.wheel_lag_ms"] == pytest.approx(late_ms, abs=0.01)
    assert late_ms >= 0


async def test_attempts_deferred_by_an_open_breaker_are_spans_and_no_errors(
    app: App, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder, store=store, retry_base_s=1.0):
        store.is_down = True
        uploads = app.queue_uploads(8)
        deferred = await recorder.wait_for(
            AttemptSettled, lambda event: event.verdict == "deferred" and event.outcome.code is not None
        )
        store.is_down = False
        await recorder.wait_for_all(8, AttemptSettled, lambda event: event.verdict == "stored")
    spans = collector.wait_for("upload", count=8)
    [upload] = [upload for upload in uploads if upload.id == deferred.upload_id]
    of_upload = spans_of(spans, upload)
    attempts = spans_named(of_upload, "upload.attempt")
    outcomes = [span.attributes["upload.outcome"] for span in attempts]
    assert (outcomes[0], outcomes[-1]) == ("deferred", "stored")
    assert not attempts[0].is_error
    [failed] = [span for span in attempts if span.span_id == deferred.trail.span_id.hex()]
    assert failed.attributes["error.type"] == "STORAGE_UNAVAILABLE"
    assert failed.attributes["upload.error_message"] == deferred.outcome.message
    # a deferred attempt isn't counted, but has its own span
    assert len({span.span_id for span in attempts}) == len(attempts)
    for earlier, later in pairwise(attempts):
        assert later.links == ((earlier.trace_id, earlier.span_id),)
    waits = spans_named(of_upload, "upload.backoff")
    assert (waits[0].start, waits[0].end) == (attempts[0].end, attempts[1].start)


async def test_a_dead_upload_that_is_retried_continues_its_trace(
    app: App, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, GONE)
        await recorder.wait_for(AttemptSettled)
        app.all("select * from reactor.requeue_uploads(array[%s]::uuid[])", upload.id)
        await recorder.wait_for(AttemptSettled)
    spans = spans_of(collector.wait_for("upload", count=2), upload)
    first, second = spans_named(spans, "upload.attempt")
    assert (first.attributes["upload.attempt"], second.attributes["upload.attempt"]) == (1, 1)
    assert second.links == ((first.trace_id, first.span_id),)
    assert first.trace_id == second.trace_id
    assert len({span.span_id for span in spans}) == len(spans)
    assert [span.attributes["upload.outcome"] for span in spans_named(spans, "upload")] == ["dead", "stored"]


async def test_the_attempt_of_a_lost_worker_is_exported_by_the_next_worker(
    app: App, recorder: Recorder, collector: Receiver
) -> None:
    app.disable_triggers()
    [lost, buried] = app.queue_uploads(2)
    for upload, max_retries in ((lost, 5), (buried, 1)):
        app.all("update public.upload_queue set max_retries = %s where id = %s returning id", max_retries, upload.id)
    claims = "select id, claimed_at from reactor.claim_uploads(array[%s, %s]::uuid[], %s, interval '0')"
    claimed_at = {row["id"]: row["claimed_at"] for row in app.all(claims, lost.id, buried.id, uuid4())}
    await app.drain(recorder)
    spans = collector.wait_for("upload", count=2)
    of_lost = spans_of(spans, lost)
    root = only_span(of_lost, "upload.queued")
    first, second = spans_named(of_lost, "upload.attempt")
    assert first.start == pytest.approx(claimed_at[lost.id] * 1e9, abs=2000)
    assert root.start < first.start
    assert first.is_error
    assert (first.attributes["upload.outcome"], first.attributes["upload.attempt"]) == ("retry", 1)
    assert first.message == "the worker stopped without settling"
    assert second.links == ((first.trace_id, first.span_id),)
    assert second.start >= first.end
    dead = spans_of(spans, buried)
    [attempt] = spans_named(dead, "upload.attempt")
    assert only_span(dead, "upload").attributes["upload.outcome"] == attempt.attributes["upload.outcome"] == "dead"
    assert only_span(dead, "upload").end == attempt.end

    [reconcile] = [span for span in spans_named(spans, "reconcile") if span.links]
    assert (reconcile.parent_id, reconcile.kind) == ("", "INTERNAL")
    assert {span.trace_id for span in spans if span.attributes.get("upload.id")} == {
        trace for trace, _ in reconcile.links
    }
    assert (root.trace_id, root.span_id) in reconcile.links


async def test_a_runs_timeout_is_a_span_of_the_runs_own_trace(
    app: App, recorder: Recorder, collector: Receiver
) -> None:
    async with app.running_reactor(recorder):
        deadline = app.one("select clock_timestamp() + interval '0.2 s' as due")
        traced = app.begin_run(timeout_at=deadline, traceparent=f"00-{TRACE}-{SPAN}-01")
        await recorder.wait_for(RunExpired)
        untraced = app.begin_run(timeout_at=deadline)
        await recorder.wait_for(RunExpired)
        ours = app.begin_run(timeout_at=deadline, traceparent=app.one("select reactor.traceparent(null)"))
        await recorder.wait_for(RunExpired)
    spans = {
        UUID(span.attributes["interpretation.id"]): span
        for span in spans_named(collector.wait_for("interpretation.timeout", count=3), "interpretation.timeout")
    }
    span = spans[traced]
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    assert span.start / MS == pytest.approx(deadline.timestamp() * 1000, abs=0.01)
    assert span.end / MS == pytest.approx(app.run(traced)["completed_at"].timestamp() * 1000, abs=0.01)
    assert span.attributes["error.type"] == "INTERPRETATION_TIMEOUT"
    assert not span.is_error
    for run in (untraced, ours):
        assert spans[run].trace_id != TRACE
        assert spans[run].parent_id == ""  # the run's trace has no parent span
    assert spans[ours].trace_id == app.run(ours)["traceparent"].split("-")[1]


def test_a_traceparent_that_the_database_makes_is_valid_and_has_the_root_span_id(app: App) -> None:
    """The database makes a traceparent by default, and when a caller of the API passes NULL or an invalid text."""
    app.queue_uploads(500)
    traceparents = [row["traceparent"] for row in app.all("select traceparent from public.upload_queue")]
    traceparents += [app.one("select reactor.traceparent(%s)", given) for given in (None, "", "garbage")]
    given = f"00-{TRACE}-{SPAN}-01"
    assert app.one("select reactor.traceparent(%s)", given) == given
    assert len({text.split("-")[1] for text in traceparents}) == 503
    for text in traceparents:
        assert context_of(text, uuid4()).is_ours
        assert re.fullmatch(rf"00-[0-9a-f]{{12}}4[0-9a-f]{{3}}[89ab][0-9a-f]{{15}}-{ROOT_SPAN_ID.hex()}-03", text)


TIMES = st.floats(0.0, 2e9, allow_nan=False)


@given(put=st.none() | st.tuples(TIMES, TIMES), settling_at=TIMES, took_s=st.floats(1e-4, 1e3))
def test_whatever_the_clocks_say_put_and_settlement_are_inside_the_attempt_and_no_span_is_empty(
    put: tuple[float, float] | None, settling_at: float, took_s: float
) -> None:
    """The reactor's estimate of the database's clock may be wrong by any time."""
    claimed_at = 1.7e9
    trail = Trail(
        upload_id=UUID(int=1), traceparent=None, bucket="files", size_bytes=5, attempt=1, ordinal=1,
        created_at=claimed_at, due_at=claimed_at, claimed_at=claimed_at, user_id=UUID(int=2),
    )  # fmt: skip
    exported: list[Any] = []
    subscriptions = Traces(exported.append, ALWAYS_ON, Resource({}), version="1", store_name="file").subscriptions()
    settled = AttemptSettled(trail, Outcome(Verdict.STORED), put, settling_at, claimed_at + took_s)
    subscriptions[UploadsClaimed](UploadsClaimed(trails=[trail]))
    subscriptions[AttemptsSettled](AttemptsSettled(attempts=[settled]))
    times = {span.name: (span.start_time, span.end_time) for span in exported}
    assert all(end - start > 0 for start, end in times.values())
    first, last = times["upload.attempt"]
    for name in {"upload.put", "upload.settle"} & times.keys():
        start, end = times[name]
        assert first <= start < end <= last


def test_each_reactor_exports_an_equal_root_span() -> None:
    """Jaeger shows two spans with the same id as one only if they are equal."""
    exported: list[Any] = []
    trail = Trail(
        upload_id=UUID(int=1), traceparent=None, bucket="files", size_bytes=5, attempt=1, ordinal=1,
        created_at=1.0, due_at=1.0, claimed_at=2.0, user_id=UUID(int=2),
    )  # fmt: skip
    for host in ("first", "second"):
        resource = Resource({"service.name": "reactor", "host.name": host, "service.instance.id": host})
        traces = Traces(exported.append, ALWAYS_ON, resource, version="1", store_name="")
        traces.subscriptions()[UploadsClaimed](UploadsClaimed(trails=[trail]))
    first, second = (span for span in exported if span.name == "upload.queued")
    assert first.to_json() == second.to_json()
