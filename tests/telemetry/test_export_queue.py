"""Spans are queued up to a limit and counted as sent or lost; close() ends within its time limit."""

import threading
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanContext, TraceFlags
from support.servers.otlp_receiver import Receiver, receiving

from reactor.core.errors import ConfigInvalid
from reactor.core.events import RunExpired
from reactor.core.trace_context import TraceContext
from reactor.telemetry.collector import collector_of
from reactor.telemetry.export_queue import ExportQueue
from reactor.telemetry.traces import Traces

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def queue_to(receiver: Receiver, **variables: str) -> ExportQueue:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"} | variables
    collector = collector_of(environ, "traces")
    assert collector is not None
    return ExportQueue(collector, environ)


def add(queue: ExportQueue, *names: str) -> None:
    context = SpanContext(trace_id=1, span_id=2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    for name in names:
        queue.add(ReadableSpan(name, context, resource=Resource({}), start_time=1, end_time=2))


def test_a_full_queue_drops_new_spans(receiver: Receiver, log_lines: list[str]) -> None:
    collector_is_up = threading.Event()
    receiver.answer = lambda: 200 if collector_is_up.wait(20) else 503
    queue = queue_to(receiver, OTEL_BSP_MAX_QUEUE_SIZE="3")
    add(queue, "1")
    receiver.wait_for_request()  # this span is being sent, and still occupies a place in the queue
    add(queue, "2", "3", "4", "5", "6")
    assert (queue.sent, queue.lost) == (0, 3)
    collector_is_up.set()
    queue.close(10.0)
    assert [span.name for span in receiver.spans] == ["1", "2", "3"]
    assert (queue.sent, queue.lost) == (3, 3)
    assert log_lines == [f"spans lost: 3; the collector at {receiver.endpoint} did not accept them"]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 307])
def test_a_batch_that_is_refused_for_good_is_lost(receiver: Receiver, status: int, log_lines: list[str]) -> None:
    """A redirect is not followed, because it would carry the headers to another host."""
    statuses = iter([status])
    receiver.answer = lambda: next(statuses, 200)
    queue = queue_to(receiver, OTEL_EXPORTER_OTLP_HEADERS="x-key=secret")
    add(queue, "1", "2")
    queue.close(10.0)
    assert [span.name for span in receiver.spans] == ["2"]
    assert receiver.requests["/v1/traces"] == 2
    assert (queue.sent, queue.lost) == (1, 1)
    assert log_lines[0].endswith(f"doesn't accept spans: it answered {status}")


def test_a_batch_is_repeated_until_the_collector_is_up(receiver: Receiver) -> None:
    statuses = iter([503])
    receiver.answer = lambda: next(statuses, 200)
    queue = queue_to(receiver)
    add(queue, "1")
    receiver.wait_for("1")
    queue.close(10.0)
    assert (queue.sent, queue.lost) == (1, 0)


def test_a_collector_that_hangs_delays_the_end_no_longer_than_allowed(receiver: Receiver, log_lines: list[str]) -> None:
    receiver.answer = lambda: None
    queue = queue_to(receiver)
    add(queue, "1", "2", "3")
    receiver.wait_for_request()
    began = time.monotonic()
    queue.close(0.3)
    assert time.monotonic() - began < 1.0
    assert not receiver.spans
    assert log_lines == [f"spans lost: 3; the collector at {receiver.endpoint} did not accept them"]


def test_an_empty_queue_sends_nothing(receiver: Receiver, log_lines: list[str]) -> None:
    queue_to(receiver).close(10.0)
    assert not receiver.requests
    assert not log_lines


def test_spans_that_the_sampler_chose_are_exported_whatever_the_apps_flags(receiver: Receiver) -> None:
    queue = queue_to(receiver)
    traces = Traces(queue.add, ALWAYS_ON, Resource({}), version="1", store_name="")
    context = TraceContext(b"t" * 16, b"p" * 8, 0)
    traces.subscriptions()[RunExpired](
        RunExpired(run_id=UUID(int=1), code="X", late_s=1.0, context=context, failed_at=2.0, user_id=None)
    )
    queue.close(10.0)
    assert [span.name for span in receiver.spans] == ["interpretation.timeout"]


@pytest.mark.parametrize(
    "variable", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY"]
)
def test_a_size_or_delay_that_is_no_number_is_named(receiver: Receiver, variable: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{variable} must be a whole number above 0"):
        queue_to(receiver, **{variable: "many"})
