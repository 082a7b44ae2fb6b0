"""Many traces in a real Jaeger: whole while the exporter keeps up; else losses are counted, and the page says so."""

import random
import re
from collections import Counter
from collections.abc import Sequence

import pytest
from support.app import App
from support.chaos.harness import figure
from support.process import Running
from support.servers.fault_server import Request, answers, stores
from support.servers.jaeger import JaegerSpan, assert_whole, named
from support.traced import TracedApp

UPLOADS = 10_000
BATCH = 500
BUSY = answers(503, "SlowDown", "Reduce your request rate.")
REFUSED = answers(400, "KeyTooLongError", "Your key is too long.")
SPANS_OF_A_STORED_UPLOAD = 5
"""Number of spans of an upload that the first attempt stores at once."""


def queue_in_batches(app: App, count: int) -> list[str]:
    """Queue uploads of 100 bytes; return their trace ids."""
    for _ in range(0, count, BATCH):
        with app.conn.transaction():
            app.queue_uploads(min(count, BATCH), content=random.randbytes(100))
    rows = app.all("select traceparent from public.upload_queue")
    assert len(rows) == count
    return [row["traceparent"].split("-")[1] for row in rows]


def exported(run: Running) -> dict[str, int]:
    """Return the numbers of spans that were sent and lost."""
    found = re.findall(r'^reactor_spans_total\{outcome="(\w+)"\} (\S+)$', run.get("/metrics")[1], re.MULTILINE)
    return {outcome: round(float(count)) for outcome, count in found}


def is_settled(app: App) -> bool:
    return not app.one("select exists (select from public.upload_queue where status <> 'dead')")


def fails_sometimes(request: Request) -> None:
    """Answer 8 % of the requests with 503, and refuse 2 % for good."""
    chance = random.random()
    (BUSY if chance < 0.08 else REFUSED if chance < 0.1 else stores)(request)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ten_thousand_uploads_with_failures_are_whole_traces(traced: TracedApp) -> None:
    app = traced.app
    app.disable_triggers()
    trace_ids = queue_in_batches(app, UPLOADS)
    with traced.reacting(OTEL_BSP_SCHEDULE_DELAY="") as run:
        traced.s3.fault = fails_sometimes
        traced.wait_for(lambda: is_settled(app), within_s=300)
        traced.wait_for(lambda: sum(exported(run).values()) >= SPANS_OF_A_STORED_UPLOAD * UPLOADS)
        run.terminate()
        assert run.ended() == 0
    assert "spans lost" not in run.log
    outcomes: Counter[str] = Counter()
    attempts: list[JaegerSpan] = []
    spans_seen = 0
    for spans in traced.jaeger.traces(trace_ids):
        assert_whole(spans, "upload.queued")
        [whole] = named(spans, "upload")
        outcomes[whole.tags["upload.outcome"]] += 1
        attempts += named(spans, "upload.attempt")
        spans_seen += len(spans)
    figure(f"{UPLOADS} uploads, {failed(attempts)} failed attempts", f"{spans_seen} spans, 0 lost, {dict(outcomes)}")
    assert outcomes.total() == UPLOADS
    assert outcomes["dead"] == app.one("select count(*) from public.upload_queue")
    assert failed(attempts) > UPLOADS / 20


def failed(attempts: Sequence[JaegerSpan]) -> int:
    return sum(span.is_error for span in attempts)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_at_full_speed_every_span_is_either_in_jaeger_or_counted_as_lost(traced: TracedApp) -> None:
    """A folder is the store, so nothing but the reactor limits the speed."""
    drain_and_compare(traced, UPLOADS, OTEL_BSP_SCHEDULE_DELAY="")


def test_spans_that_do_not_fit_are_counted_and_shown_on_the_page(traced: TracedApp) -> None:
    lost = drain_and_compare(traced, 500, OTEL_BSP_MAX_QUEUE_SIZE="100", OTEL_BSP_SCHEDULE_DELAY="1000")
    assert lost > 0


def drain_and_compare(traced: TracedApp, uploads: int, **variables: str) -> int:
    """Store uploads at full speed; return the number of lost spans, once Jaeger has all others."""
    app = traced.app
    app.disable_triggers()
    trace_ids = queue_in_batches(app, uploads)
    with traced.reacting(REACTOR_STORE_URL=app.store.as_uri(), **variables) as run:
        traced.wait_for(lambda: is_settled(app), within_s=60)
        traced.wait_for(lambda: sum(exported(run).values()) >= SPANS_OF_A_STORED_UPLOAD * uploads)
        traced.wait_for(lambda: spans_in_jaeger(traced, trace_ids) == exported(run)["sent"])
        counted = exported(run)
        troubles = [line for line in run.get_json("/api/live")["troubles"] if "lost" in line]
        page = run.get("/")[1]
        run.terminate()
        assert run.ended() == 0
    figure(f"{uploads} uploads at full speed, spans", f"{counted['sent']} sent, {counted['lost']} lost")
    if counted["lost"]:
        [trouble] = troubles
        assert trouble.startswith(f"{counted['lost']:,} spans were lost")
        assert trouble in page
        assert f"spans lost: {counted['lost']}" in run.log
    return counted["lost"]


def spans_in_jaeger(traced: TracedApp, trace_ids: Sequence[str]) -> int:
    """Return the number of spans of these uploads, and of their reactor's reconciliations."""
    traces = list(traced.jaeger.traces(trace_ids))
    instances = {span.process.get("service.instance.id") for spans in traces for span in spans} - {None}
    reconciliations = [
        trace_id
        for instance in instances
        for trace_id in traced.jaeger.find(operation="reconcile", tags={"service.instance.id": str(instance)})
    ]
    return sum(map(len, traces)) + len(reconciliations)
