"""Spans on their way: kept up to a bound while the collector can't, the newest rather than the oldest, and counted."""

import threading
import time
from collections.abc import Iterator

import pytest
from loguru import logger
from opentelemetry.sdk.resources import Resource
from support.servers.otlp_receiver import Receiver, receiving

from reactor.telemetry.otlp import collector_of
from reactor.telemetry.outbox import Outbox
from reactor.telemetry.spans import INTERNAL, SpanBatches


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


def outbox_to(receiver: Receiver, *, room: int, **variables: str) -> Outbox:
    collector = collector_of({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint} | variables, "traces")
    assert collector is not None
    return Outbox(collector, room=room)


def tell(outbox: Outbox, *names: str) -> None:
    """Put a batch of one span each."""
    batches = SpanBatches(outbox, Resource({}), version="1", size=1)
    for name in names:
        batches.add(name, INTERNAL, (b"t" * 16, b"s" * 8, b""), (1.0, 2.0), {}, flags=1)


def test_what_there_is_no_room_for_is_lost_oldest_first(receiver: Receiver, complaints: list[str]) -> None:
    receiver.answer = lambda: 503
    outbox = outbox_to(receiver, room=3)
    tell(outbox, "1")
    receiver.wait_for_request()  # it is in hand now, and tried again and again
    tell(outbox, "2", "3", "4", "5", "6")
    receiver.answer = lambda: 200
    outbox.close(10.0)
    assert [span.name for span in receiver.spans] == ["1", "5", "6"]
    assert (outbox.sent, outbox.lost) == (3, 3)
    assert len(complaints) == 3  # takes no spans; takes spans again; 3 were lost


@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_what_is_refused_for_good_is_not_sent_again(receiver: Receiver, status: int, complaints: list[str]) -> None:
    answers = iter([status])
    receiver.answer = lambda: next(answers, 200)
    outbox = outbox_to(receiver, room=10)
    tell(outbox, "1", "2")
    outbox.close(10.0)
    assert [span.name for span in receiver.spans] == ["2"]
    assert receiver.requests["/v1/traces"] == 2
    assert (outbox.sent, outbox.lost) == (1, 1)
    assert complaints[0].endswith(f"takes no spans: it answered {status}")


def test_a_collector_that_hangs_delays_the_end_no_longer_than_allowed(receiver: Receiver) -> None:
    receiver.answer = lambda: None
    outbox = outbox_to(receiver, room=10)
    tell(outbox, "1", "2", "3")
    receiver.wait_for_request()
    began = time.monotonic()
    outbox.close(0.3)
    assert time.monotonic() - began < 1.0
    assert not receiver.spans


def test_nothing_to_send_is_no_thread_and_no_wait(receiver: Receiver) -> None:
    before = set(threading.enumerate())
    outbox = outbox_to(receiver, room=10)
    outbox.close(10.0)
    assert set(threading.enumerate()) <= before
    assert not receiver.requests


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    """It would carry the headers to somebody else."""
    receiver.answer = lambda: 307
    outbox = outbox_to(receiver, room=10, OTEL_EXPORTER_OTLP_HEADERS="x-key=secret")
    tell(outbox, "1")
    outbox.close(10.0)
    assert receiver.requests["/v1/traces"] == 1
    assert outbox.lost == 1
