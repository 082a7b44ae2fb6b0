"""Subscribers receive an event immediately; log lines, metrics and spans follow a moment later."""

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
from loguru import logger
from support.servers.otlp_receiver import Receiver, receiving

from reactor.core.events import Event, Listening, Polling, Reconciled, TimerFired
from reactor.telemetry.dispatcher import Dispatcher

pytestmark = pytest.mark.usefixtures("no_proxy")

PASS = Reconciled(pass_id=UUID(int=1), began_at=1.0, ended_at=2.0, changed=0, links=[])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


async def test_each_subscriber_gets_its_events_at_once_and_in_order() -> None:
    received: list[tuple[str, Event]] = []
    dispatcher = Dispatcher(
        "1",
        {},
        subscribers=[
            {Listening: lambda event: received.append(("first", event))},
            {
                Listening: lambda event: received.append(("second", event)),
                TimerFired: lambda event: received.append(("second", event)),
            },
        ],
    )
    listening, fired = Listening(), TimerFired(lag_s=0.1)
    dispatcher(listening)
    dispatcher(fired)
    dispatcher(Polling(interval_s=2.0, reason="x"))
    assert received == [("first", listening), ("second", listening), ("second", fired)]


async def test_log_lines_and_metrics_follow_a_moment_later(log_lines: list[str]) -> None:
    logged = asyncio.Event()
    sink = logger.add(lambda _: logged.set(), level="INFO")
    dispatcher = Dispatcher("1", {})
    dispatcher(Listening())
    assert not log_lines  # logging doesn't delay the work that follows an event
    async with asyncio.timeout(10):
        await logged.wait()
    logger.remove(sink)
    assert log_lines == ["listening for notifications: the test notification has arrived"]
    assert b"reactor_listener_up 1.0" in dispatcher.metrics.prometheus()


async def test_a_scrape_includes_every_event_until_now() -> None:
    dispatcher = Dispatcher("1", {})
    dispatcher(Listening())
    assert b"reactor_listener_up 1.0" in dispatcher.prometheus()


async def test_a_flood_of_events_does_not_block_the_event_loop() -> None:
    """Events are processed for a few milliseconds, then the loop's other tasks run."""
    dispatcher = Dispatcher("1", {})
    for _ in range(50_000):
        dispatcher(TimerFired(lag_s=0.001))
    turns = 0
    async with asyncio.timeout(20):
        while b"reactor_wheel_lag_seconds_count 50000.0" not in dispatcher.metrics.prometheus():
            await asyncio.sleep(0)
            turns += 1
    assert turns > 5


async def test_figures_are_read_when_metrics_are_collected() -> None:
    timers, free_bytes, status = 1, 2, {"runs": {"running": 3}}
    dispatcher = Dispatcher("1", {}, timers=lambda: timers, spool_free_bytes=lambda: free_bytes, status=lambda: status)
    timers, free_bytes, status = 10, 20, {"runs": {"running": 30}}
    text = dispatcher.prometheus().decode()
    for line in ("reactor_wheel_timers 10.0", "reactor_spool_free_bytes 20.0", "interpretation_running 30.0"):
        assert line in text


async def test_closing_exports_everything(receiver: Receiver) -> None:
    dispatcher = Dispatcher("1", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
    assert dispatcher.pushes
    dispatcher(PASS)
    dispatcher(TimerFired(lag_s=0.1))
    await dispatcher.close()
    assert [span.name for span in receiver.spans] == ["reconcile"]
    assert receiver.metrics["reactor.wheel.lag"].histogram.data_points[0].count == 1


async def test_lost_spans_are_counted_with_the_time_since_the_last_one(receiver: Receiver) -> None:
    receiver.answer = lambda: None
    assert Dispatcher("1", {}).spans_lost() == (0, 0.0)
    dispatcher = Dispatcher("1", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_MAX_QUEUE_SIZE": "2"})
    for _ in range(5):
        dispatcher(PASS)
    dispatcher.flush()
    count, ago_s = dispatcher.spans_lost()
    assert count == 3
    assert 0 <= ago_s < 10
    await dispatcher.close()


async def test_a_collector_that_hangs_on_both_signals_delays_the_end_by_2_s(
    receiver: Receiver, log_lines: list[str]
) -> None:
    receiver.answer = lambda: None
    dispatcher = Dispatcher("1", {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint})
    dispatcher(PASS)
    began = time.monotonic()
    await dispatcher.close()
    assert 1.9 < time.monotonic() - began < 3.0
    assert log_lines == [f"spans lost: 1; the collector at {receiver.endpoint} did not accept them"]
