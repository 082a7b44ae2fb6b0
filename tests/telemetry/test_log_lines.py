"""A line about a row contains the ids of row, trace and span; its level shows whether an operator must act."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from loguru import logger
from support.breaker_events import breaker_closed, breaker_opened

from reactor.core import events
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import Trail, timeout_span_id
from reactor.telemetry.log_lines import LogLines

if TYPE_CHECKING:
    from loguru import Message, Record

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def records() -> Iterator[list["Record"]]:
    """All logged records of all levels."""
    records: list[Record] = []

    def sink(message: "Message") -> None:
        records.append(message.record)

    sink_id = logger.add(sink, level="TRACE")
    yield records
    logger.remove(sink_id)


def emit(*emitted: events.Event) -> None:
    subscriptions = LogLines().subscriptions()
    for event in emitted:
        subscriptions[type(event)](event)


def trail(number: int) -> Trail:
    return Trail(
        upload_id=UUID(int=number),
        traceparent=f"00-{TRACE}-{SPAN}-01",
        bucket="files",
        size_bytes=5,
        attempt=2,
        ordinal=3,
        created_at=0.0,
        due_at=0.0,
        claimed_at=0.0,
        user_id=UUID(int=7),
    )


def settled(number: int, outcome: Outcome) -> events.AttemptSettled:
    return events.AttemptSettled(trail=trail(number), outcome=outcome, put=(0.1, 0.35), settling_at=0.4, settled_at=0.5)


@pytest.mark.parametrize(
    ("outcome", "level", "message"),
    [
        (Outcome(Verdict.STORED), "INFO", "stored 5 bytes in 0.250 s"),
        (
            Outcome(Verdict.RETRY, delay_s=30.0, code="STORAGE_UNAVAILABLE", message="503"),
            "WARNING",
            "failed, next attempt in 30.0 s: STORAGE_UNAVAILABLE: 503",
        ),
        (
            Outcome(Verdict.DEAD, code="STORAGE_REJECTED", message="{braces}"),
            "ERROR",
            "dead: STORAGE_REJECTED: {braces}",
        ),
        (Outcome(Verdict.DEFERRED), "DEBUG", "deferred: the attempt isn't counted"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else value.verdict.value,
)
def test_each_outcome_has_its_line(records: list["Record"], outcome: Outcome, level: str, message: str) -> None:
    emit(events.AttemptsSettled(attempts=[settled(1, outcome)]))
    [record] = records
    assert (record["level"].name, record["message"]) == (level, message)
    # a text sink of the same process adds its own fields, which begin with _
    assert {key: value for key, value in record["extra"].items() if key[0] != "_"} == trail(1).fields


def test_each_line_of_a_batch_carries_its_own_ids(records: list["Record"]) -> None:
    stored = Outcome(Verdict.STORED)
    emit(events.AttemptsSettled(attempts=[settled(number, stored) for number in (1, 2)]))
    uploads = [record["extra"]["upload_id"] for record in records]
    assert uploads == [str(UUID(int=1)), str(UUID(int=2))]
    spans = {record["extra"]["span_id"] for record in records}
    assert spans == {trail(1).span_id.hex(), trail(2).span_id.hex()}
    assert {record["extra"]["trace_id"] for record in records} == {TRACE}


def test_a_line_about_a_run_carries_the_ids_of_its_timeout(records: list["Record"]) -> None:
    emit(
        events.RunExpired(
            run_id=UUID(int=1),
            code="INTERPRETATION_TIMEOUT",
            late_s=0.01,
            context=trail(1).context,
            failed_at=1.0,
            user_id=None,
        )
    )
    [record] = records
    assert record["message"] == "failed a stale run 0.010 s after its deadline: INTERPRETATION_TIMEOUT"
    assert record["extra"] == {
        "run_id": str(UUID(int=1)),
        "trace_id": TRACE,
        "span_id": timeout_span_id(UUID(int=1)).hex(),
    }


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (events.Polling(interval_s=2.0, reason="x"), "ERROR", "polling the database every 2 s"),
        (events.ListenerLost(reason="x"), "WARNING", "reconnecting"),
        (
            breaker_opened("s3://h"),
            "ERROR",
            "store s3://h fails for everyone, whose uploads wait and whose attempts aren't counted: 503 SlowDown",
        ),
        (events.Swept(reaction="uploads", found=3, missed=2, duration_s=0.1), "WARNING", "2 overdue uploads"),
        (events.UsageRepaired(kind="reservations", count=2), "WARNING", "released 2 reservations unused for a day"),
        (events.UsageRepaired(kind="reservations", count=1), "WARNING", "released 1 reservation unused for a day"),
        (events.UsageRepaired(kind="months", count=1), "INFO", "repaired 1 month"),
        (
            events.Rescued(retried=1, buried=0),
            "WARNING",
            "rescued 1 abandoned upload; 0 uploads more without attempts left died",
        ),
        (events.ReactorsChanged(alive=1, joined=0, left=1), "INFO", "1 reactor running (0 joined, 1 left)"),
        (events.ReactorsChanged(alive=2, joined=1, left=0), "INFO", "2 reactors running (1 joined, 0 left)"),
        (
            events.RowsRefused(
                reaction="runs", row_ids=[UUID(int=1)], reason="no", times=3, retry_in_s=120.0, set_aside=4
            ),
            "ERROR",
            f"refuses 1 run, for example {UUID(int=1)} (refused 3 times so far; next try in 120 s): no",
        ),
        (events.RowsAccepted(reaction="runs", rows=2, set_aside=1), "INFO", "accepts 2 runs"),
    ],
)
def test_an_event_is_logged_at_the_level_of_its_severity(
    records: list["Record"], event: Any, level: str, words: str
) -> None:
    emit(event)
    assert records[0]["level"].name == level
    assert words in records[0]["message"]


class Time:
    """Monotonic seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def lost(doing: str = "claim uploads", reason: str = "connection refused") -> events.DatabaseLost:
    return events.DatabaseLost(doing=doing, reason=reason)


def messages(records: list["Record"]) -> list[str]:
    return [record["message"] for record in records if record["level"].name != "DEBUG"]


def test_an_outage_of_an_hour_has_few_lines_and_one_at_its_end(records: list["Record"], time: Time) -> None:
    subscriptions = LogLines(time).subscriptions()
    while time.now < 3600:
        for doing, every_s in (("claim uploads", 0.5), ("claim runs", 0.5), ("reconcile", 1.0), ("listen", 4.0)):
            if time.now % every_s == 0:
                subscriptions[events.DatabaseLost](lost(doing, f"no answer from port {int(time.now)}"))
        time.now += 0.5
    subscriptions[events.DatabaseAnswers](events.DatabaseAnswers(after_s=3600.0))
    subscriptions[events.DatabaseAnswers](events.DatabaseAnswers(after_s=0.0))
    *warnings, end = messages(records)
    assert len(warnings) == 4 * 9
    assert warnings[0] == "couldn't claim uploads: no answer from port 0; retrying"
    assert (
        "couldn't claim uploads: no answer from port 71; retrying (119 more since the last line about this)" in warnings
    )
    assert end == "the database answers again after 3600.0 s"


def test_another_cause_is_logged_at_once(records: list["Record"], time: Time) -> None:
    subscriptions = LogLines(time).subscriptions()
    for reason in ("connection refused", "connection refused", "password authentication failed"):
        subscriptions[events.DatabaseLost](lost(reason=reason))
    assert [message.partition(": ")[2] for message in messages(records)] == [
        "connection refused; retrying",
        "password authentication failed; retrying",
    ]


def test_lost_leases_are_counted(records: list["Record"], time: Time) -> None:
    subscriptions = LogLines(time).subscriptions()
    for number in range(2500):
        subscriptions[events.LeaseLost](events.LeaseLost(upload_id=UUID(int=number)))
    time.now += 2.0
    subscriptions[events.LeaseLost](events.LeaseLost(upload_id=UUID(int=9999)))
    assert [message.partition("dropped")[2] for message in messages(records)] == [
        "",
        " (2499 more since the last line about this)",
    ]
    assert records[0]["extra"]["upload_id"] == str(UUID(int=0))


def test_a_place_that_answers_again_says_after_how_long(records: list["Record"], time: Time) -> None:
    subscriptions = LogLines(time).subscriptions()
    subscriptions[events.BreakerMoved](breaker_opened("s3://h"))
    subscriptions[events.BreakerMoved](breaker_opened("s3://g"))
    time.now += 65.0
    subscriptions[events.BreakerMoved](breaker_closed("s3://h"))
    assert messages(records)[-1] == "store s3://h answers again after 65.0 s: its uploads continue"
    subscriptions[events.BreakerMoved](breaker_closed("s3://unknown"))
    assert len(messages(records)) == 3


def test_a_breaker_that_opens_and_closes_for_an_hour_has_few_lines(records: list["Record"], time: Time) -> None:
    subscriptions = LogLines(time).subscriptions()
    while time.now < 3600:
        for event in (breaker_opened("s3://h"), breaker_closed("s3://h")):
            subscriptions[events.BreakerMoved](event)
            time.now += 0.5
    assert len(messages(records)) < 2 * 3600 / 10 + 4
    per_minute = 2 * 60 / 10
    assert per_minute < 100


def test_listening_is_logged_at_the_start_and_after_a_fault_that_was_logged(
    records: list["Record"], time: Time
) -> None:
    subscriptions = LogLines(time).subscriptions()
    flow: list[events.Event] = [
        events.Listening(),
        events.ListenerLost(reason="server closed the connection"),
        events.Polling(interval_s=2.0, reason="the notification queue is 60% full"),
        events.Listening(),
        events.Listening(),
    ]
    for event in flow:
        subscriptions[type(event)](event)
        time.now += 1.5
    assert messages(records) == [
        "listening for notifications: the test notification has arrived",
        "lost the listening connection (server closed the connection): reconnecting",
        "notifications don't arrive (the notification queue is 60% full): polling the database every 2 s",
        "listening for notifications: the test notification has arrived, after 3.0 s without notifications",
    ]


def test_rejected_notifications_of_a_flood_are_counted(records: list["Record"], time: Time) -> None:
    subscriptions = LogLines(time).subscriptions()
    for number in range(1000):
        for reason in ("not JSON", f"{number} is no version"):
            rejected = events.NotificationRejected(channel="reactor_runs", reason=reason)
            subscriptions[events.NotificationRejected](rejected)
    assert len(records) == 2


def test_a_line_below_the_level_computes_no_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing the ids costs more than all other telemetry of a settled upload."""

    def fail(_trail: Trail) -> dict[str, object]:
        raise AssertionError("the ids were computed for a line that isn't logged")

    monkeypatch.setattr(Trail, "fields", property(fail))
    logger.remove()
    sink_id = logger.add(lambda _message: None, level="WARNING")
    settled = events.AttemptSettled(trail(1), Outcome(Verdict.STORED), (1.0, 2.0), 2.0, 3.0)
    emit(events.AttemptsSettled(attempts=[settled]))
    logger.remove(sink_id)
