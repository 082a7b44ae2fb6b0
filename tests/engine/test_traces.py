"""What is told of an upload's life, as a collector receives it: names, kinds, times, the tree and its links."""

import re
from collections.abc import Iterator
from itertools import pairwise
from uuid import UUID, uuid4

import pytest
from support.app import AppSide, Owed
from support.recorder import Recorder
from support.servers.otlp_receiver import ReceivedSpan, Receiver, receiving
from support.stubborn_store import StubbornStore

from reactor.core.errors import StorageRejected, StorageUnavailable
from reactor.core.events import AttemptSettled, RunExpired
from reactor.core.trace_context import context_of

BUSY = StorageUnavailable("503 SlowDown", http_status=503)
GONE = StorageRejected("404 NoSuchBucket", http_status=404)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MS = 1_000_000
RETRY_BASE_MS = 100


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.endpoint + "/v1/traces")
        yield receiver


def of(spans: list[ReceivedSpan], upload: Owed) -> list[ReceivedSpan]:
    """Return an upload's spans, in the order of their times."""
    mine = [span for span in spans if span.attributes.get("upload.id") == str(upload.id)]
    return sorted(mine, key=lambda span: (span.start, span.end))


def named(spans: list[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


def only(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    [span] = named(spans, name)
    return span


def assert_attempts_are_whole(spans: list[ReceivedSpan], root_id: str) -> None:
    """Each attempt hangs under the root, is linked to the one before, and has its put and its settlement inside."""
    before: ReceivedSpan | None = None
    for attempt in named(spans, "upload.attempt"):
        assert (attempt.kind, attempt.parent_id) == ("CONSUMER", root_id)
        assert attempt.links == (((before.trace_id, before.span_id),) if before else ())
        inside = [span for span in spans if span.parent_id == attempt.span_id]
        assert [(span.name, span.kind) for span in inside] == [("upload.put", "CLIENT"), ("upload.settle", "CLIENT")]
        put, settle = inside
        assert attempt.start <= put.start <= put.end <= settle.start <= settle.end == attempt.end
        before = attempt


async def test_an_upload_that_failed_twice_and_was_then_stored_is_one_readable_trace(
    app: AppSide, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.owe()
            store.fail(upload.key, BUSY, BUSY)
        traceparent = app.one("select traceparent from public.upload_queue where id = %s", upload.id)
        await recorder.wait_for_all(3, AttemptSettled)
    spans = of(collector.wait_for("upload"), upload)
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
    assert_attempts_are_whole(spans, root_id)

    root, whole = only(spans, "upload.queued"), only(spans, "upload")
    assert (root.kind, root.span_id, root.parent_id) == ("PRODUCER", root_id, "")
    assert (whole.kind, whole.parent_id) == ("INTERNAL", root_id)
    # one clock, and no gap: each wait begins as the attempt before it ends, and ends as the next begins
    assert root.start == whole.start
    assert root.end == siblings[0].start
    for earlier, later in pairwise(siblings):
        assert earlier.end == later.start
    assert siblings[-1].end == whole.end
    waits = [(wait.end - wait.start) / MS for wait in named(spans, "upload.backoff")]
    assert waits == [pytest.approx(RETRY_BASE_MS, abs=60), pytest.approx(2 * RETRY_BASE_MS, abs=60)]
    assert min(waits[0], waits[1] / 2) >= RETRY_BASE_MS
    assert {span.kind for span in named(spans, "upload.backoff")} == {"INTERNAL"}

    attempts = named(spans, "upload.attempt")
    assert [span.attributes["upload.outcome"] for span in attempts] == ["retry", "retry", "stored"]
    assert [span.attributes["upload.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.attributes.get("error.type") for span in attempts] == ["STORAGE_UNAVAILABLE"] * 2 + [None]
    assert all(span.attributes["reactor.wheel_lag_ms"] >= 0 for span in attempts)
    assert [span.message for span in attempts] == ["503 SlowDown", "503 SlowDown", ""]
    assert {span.span_id for span in spans if span.is_error} == {span.span_id for span in attempts[:2]}
    for span in [root, whole, *attempts]:
        assert (span.attributes["upload.bucket"], span.attributes["upload.bytes"]) == ("files", len(upload.content))
    assert (whole.attributes["upload.outcome"], whole.attributes["upload.attempt"]) == ("stored", 3)
    for span in spans:
        assert span.resource["service.name"] == "reactor"
        assert span.resource["host.name"]
        assert span.flags & 1


async def test_a_dead_uploads_trace_ends_with_what_killed_it(
    app: AppSide, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.owe()
            store.fail(upload.key, BUSY, GONE)
        await recorder.wait_for_all(2, AttemptSettled)
    spans = of(collector.wait_for("upload"), upload)
    root = only(spans, "upload.queued")
    assert len(spans) == 9
    assert_attempts_are_whole(spans, root.span_id)
    first, second = named(spans, "upload.attempt")
    assert (second.is_error, second.attributes["upload.outcome"]) == (True, "dead")
    assert second.attributes["error.type"] == "STORAGE_REJECTED"
    wait, whole = only(spans, "upload.backoff"), only(spans, "upload")
    assert (wait.start, wait.end) == (first.end, second.start)
    assert (whole.start, whole.end) == (root.start, second.end)
    assert (whole.attributes["upload.outcome"], whole.attributes["error.type"]) == ("dead", "STORAGE_REJECTED")
    assert not whole.is_error


async def test_a_row_with_the_apps_own_traceparent_continues_the_apps_trace(
    app: AppSide, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder):
        [upload] = app.owe(traceparent=f"00-{TRACE}-{SPAN}-01")
        await recorder.wait_for(AttemptSettled)
    spans = of(collector.wait_for("upload"), upload)
    assert {span.trace_id for span in spans} == {TRACE}
    assert [span.name for span in spans if span.parent_id == SPAN] == ["upload", "upload.attempt"]
    assert SPAN not in {span.span_id for span in spans}  # the app tells of its own
    assert not named(spans, "upload.queued")


async def test_what_the_app_did_not_sample_is_not_told_of(
    app: AppSide, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder):
        [idle_event] = app.owe(traceparent=f"00-{TRACE}-{SPAN}-00")
        await recorder.wait_for(AttemptSettled)
        [loud] = app.owe()
        await recorder.wait_for(AttemptSettled)
    spans = collector.wait_for("upload")
    assert of(spans, loud)
    assert not of(spans, idle_event)


@pytest.mark.parametrize(("ratio", "told"), [("0.0", False), ("1.0", True)])
async def test_where_the_reactor_makes_the_root_the_sampler_decides(
    app: AppSide,
    recorder: Recorder,
    collector: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    ratio: str,
    *,
    told: bool,
) -> None:
    """The row's own flag says sampled; it is a default, and nobody's decision."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    async with app.reacting(recorder):
        [upload] = app.owe()
        await recorder.wait_for(AttemptSettled)
        [sure] = app.owe(traceparent=f"00-{TRACE}-{SPAN}-01")
        await recorder.wait_for(AttemptSettled)
    spans = collector.wait(lambda spans: any(span.trace_id == TRACE and span.name == "upload" for span in spans))
    assert bool(of(spans, upload)) is told
    assert of(spans, sure)


@pytest.mark.parametrize(
    "garbage", ["", "x" * 100, f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more"]
)
async def test_a_traceparent_that_is_none_costs_only_the_apps_trace(
    app: AppSide, recorder: Recorder, collector: Receiver, garbage: str
) -> None:
    async with app.reacting(recorder):
        [upload] = app.owe(traceparent=garbage)
        await recorder.wait_for(AttemptSettled)
    app.assert_stored(upload)
    spans = of(collector.wait_for("upload"), upload)
    [trace_id] = {span.trace_id for span in spans}
    assert trace_id not in {TRACE, "0" * 32}
    root = only(spans, "upload.queued")
    assert {span.parent_id for span in spans if span.name in ("upload", "upload.attempt")} == {root.span_id}


async def test_a_first_wait_that_was_ordered_is_a_span(app: AppSide, recorder: Recorder, collector: Receiver) -> None:
    async with app.reacting(recorder):
        due = app.one("select clock_timestamp() + interval '0.3 s' as due")
        [upload] = app.owe(next_retry_at=due)
        await recorder.wait_for(AttemptSettled)
    spans = of(collector.wait_for("upload"), upload)
    root, wait, attempt = only(spans, "upload.queued"), only(spans, "upload.backoff"), only(spans, "upload.attempt")
    assert root.start == root.end == wait.start
    assert wait.end == attempt.start
    late_ms = attempt.start / MS - due.timestamp() * 1000
    assert wait.attributes["reactor.wheel_lag_ms"] == pytest.approx(late_ms, abs=0.01)
    assert late_ms >= 0


async def test_waits_handed_back_by_an_open_breaker_are_spans_and_no_errors(
    app: AppSide, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder, store=store, retry_base_s=1.0):
        store.is_down = True
        uploads = app.owe(8)
        deferred = await recorder.wait_for(AttemptSettled, lambda event: event.verdict == "deferred")
        store.is_down = False
        await recorder.wait_for_all(8, AttemptSettled, lambda event: event.verdict == "stored")
    spans = collector.wait_for("upload", count=8)
    [upload] = [owed for owed in uploads if owed.id == deferred.upload_id]
    mine = of(spans, upload)
    attempts = named(mine, "upload.attempt")
    outcomes = [span.attributes["upload.outcome"] for span in attempts]
    assert (outcomes[0], outcomes[-1]) == ("deferred", "stored")
    assert not attempts[0].is_error
    # an attempt that was handed back isn't counted, and yet is a span of its own
    assert len({span.span_id for span in attempts}) == len(attempts)
    for earlier, later in pairwise(attempts):
        assert later.links == ((earlier.trace_id, earlier.span_id),)
    waits = named(mine, "upload.backoff")
    assert (waits[0].start, waits[0].end) == (attempts[0].end, attempts[1].start)


async def test_a_dead_upload_that_is_retried_goes_on_in_its_trace(
    app: AppSide, store: StubbornStore, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.owe()
            store.fail(upload.key, GONE)
        await recorder.wait_for(AttemptSettled)
        app.all("select * from reactor.requeue_uploads(array[%s]::uuid[])", upload.id)
        await recorder.wait_for(AttemptSettled)
    spans = of(collector.wait_for("upload", count=2), upload)
    first, second = named(spans, "upload.attempt")
    assert (first.attributes["upload.attempt"], second.attributes["upload.attempt"]) == (1, 1)
    assert second.links == ((first.trace_id, first.span_id),)
    assert first.trace_id == second.trace_id
    assert len({span.span_id for span in spans}) == len(spans)
    assert [span.attributes["upload.outcome"] for span in named(spans, "upload")] == ["dead", "stored"]


async def test_an_attempt_whose_worker_left_no_word_is_told_of_by_the_next(
    app: AppSide, recorder: Recorder, collector: Receiver
) -> None:
    app.without_triggers()
    [lost, buried] = app.owe(2)
    for owed, most in ((lost, 5), (buried, 1)):
        app.all("update public.upload_queue set max_retries = %s where id = %s returning id", most, owed.id)
    claims = "select id, claimed_at from reactor.claim_uploads(array[%s, %s]::uuid[], %s, interval '0')"
    claimed_at = {row["id"]: row["claimed_at"] for row in app.all(claims, lost.id, buried.id, uuid4())}
    await app.drain(recorder)
    spans = collector.wait_for("upload", count=2)
    mine = of(spans, lost)
    root = only(mine, "upload.queued")
    first, second = named(mine, "upload.attempt")
    assert first.start == pytest.approx(claimed_at[lost.id] * 1e9, abs=2000)
    assert root.end == first.start
    assert first.is_error
    assert (first.attributes["upload.outcome"], first.attributes["upload.attempt"]) == ("retry", 1)
    assert first.message == "the worker stopped without a word"
    assert second.links == ((first.trace_id, first.span_id),)
    assert second.start >= first.end
    dead = of(spans, buried)
    [attempt] = named(dead, "upload.attempt")
    assert only(dead, "upload").attributes["upload.outcome"] == attempt.attributes["upload.outcome"] == "dead"
    assert only(dead, "upload").end == attempt.end

    [reconcile] = [span for span in named(spans, "reconcile") if span.links]
    assert (reconcile.parent_id, reconcile.kind) == ("", "INTERNAL")
    assert {span.trace_id for span in spans if span.attributes.get("upload.id")} == {
        trace for trace, _ in reconcile.links
    }
    assert (root.trace_id, root.span_id) in reconcile.links


async def test_a_runs_timeout_is_told_in_the_runs_own_trace(
    app: AppSide, recorder: Recorder, collector: Receiver
) -> None:
    async with app.reacting(recorder):
        deadline = app.one("select clock_timestamp() + interval '0.2 s' as due")
        traced = app.begin_run(timeout_at=deadline, traceparent=f"00-{TRACE}-{SPAN}-01")
        await recorder.wait_for(RunExpired)
        untraced = app.begin_run(timeout_at=deadline)
        await recorder.wait_for(RunExpired)
        ours = app.begin_run(timeout_at=deadline, traceparent=app.one("select reactor.traceparent(null)"))
        await recorder.wait_for(RunExpired)
    spans = {
        UUID(span.attributes["interpretation.id"]): span
        for span in named(collector.wait_for("interpretation.timeout", count=3), "interpretation.timeout")
    }
    span = spans[traced]
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    assert span.start / MS == pytest.approx(deadline.timestamp() * 1000, abs=0.01)
    assert span.end / MS == pytest.approx(app.run(traced)["completed_at"].timestamp() * 1000, abs=0.01)
    assert span.attributes["error.type"] == "INTERPRETATION_TIMEOUT"
    assert not span.is_error
    for run in (untraced, ours):
        assert spans[run].trace_id != TRACE
        assert spans[run].parent_id == ""  # nobody tells of anything above it
    assert spans[ours].trace_id == app.run(ours)["traceparent"].split("-")[1]


def test_what_the_database_makes_up_is_valid_and_known_as_ours(app: AppSide) -> None:
    """The column's default, and what the API's functions put in when they are given none."""
    app.owe(500)
    traceparents = [row["traceparent"] for row in app.all("select traceparent from public.upload_queue")]
    traceparents += [app.one("select reactor.traceparent(%s)", given) for given in (None, "", "garbage")]
    given = f"00-{TRACE}-{SPAN}-01"
    assert app.one("select reactor.traceparent(%s)", given) == given
    assert len({text.split("-")[1] for text in traceparents}) == 503
    for text in traceparents:
        assert context_of(text, uuid4()).is_ours
        assert re.fullmatch(r"00-[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}-[0-9a-f]{16}-03", text)
        assert bytes.fromhex(text.split("-")[2]) == b"reactor\0"
