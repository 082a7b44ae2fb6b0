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
from reactor.telemetry.log_lines import LOG_LINES, RepeatedWarnings

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
    for event in emitted:
        LOG_LINES[type(event)](event)


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
    assert record["extra"] == trail(1).fields


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
        (breaker_closed("s3://h"), "INFO", "store s3://h answers again: its uploads continue"),
        (events.Swept(reaction="uploads", found=3, missed=2, duration_s=0.1), "WARNING", "2 overdue uploads"),
        (events.UsageRepaired(kind="reservations", count=2), "WARNING", "released 2 reservations"),
        (events.DatabaseAnswers(after_s=12.0), "INFO", "the database answers again after 12.0 s"),
        (
            events.RowsRefused(
                reaction="runs", row_ids=[UUID(int=1)], reason="no", times=3, retry_in_s=120.0, set_aside=4
            ),
            "ERROR",
            f"refuses 1 runs, for example {UUID(int=1)} (refused 3 times so far; next try in 120 s): no",
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


def lost(reason: str, doing: str = "claim uploads") -> events.DatabaseLost:
    return events.DatabaseLost(doing=doing, reason=reason)


def test_a_warning_that_repeats_is_logged_at_growing_intervals_with_a_count(records: list["Record"]) -> None:
    """A standby for an hour, with two failures in a second."""
    now = [0.0]
    warn = RepeatedWarnings("couldn't {event.doing}: {event.reason}", now=lambda: now[0])
    logged_at = []
    for half_second in range(7_200):
        now[0] = half_second / 2
        before = len(records)
        warn(lost("the server takes no writes: it is a standby"))
        if len(records) > before:
            logged_at.append(now[0])
    assert logged_at == [0, 10, 30, 70, 150, 310, 630, 1230, 1830, 2430, 3030]
    assert records[0]["message"] == "couldn't claim uploads: the server takes no writes: it is a standby"
    assert records[1]["message"].endswith("(20 times since the last warning)")
    assert records[2]["message"].endswith("(40 times since the last warning)")


def test_another_cause_is_logged_at_once(records: list["Record"]) -> None:
    warn = RepeatedWarnings("{event.doing}: {event.reason}", now=lambda: 0.0)
    for event in (lost("a"), lost("b"), lost("a", "extend uploads"), lost("a"), lost("b")):
        warn(event)
    assert [record["message"] for record in records] == ["claim uploads: a", "claim uploads: b", "extend uploads: a"]


def test_a_number_in_the_message_does_not_make_another_warning_of_it(records: list["Record"]) -> None:
    warn = RepeatedWarnings("{event.reason}", now=lambda: 0.0)
    for port in range(100):
        warn(lost(f"connection to port {port} failed"))
    assert len(records) == 1


def test_a_warning_after_a_recovery_is_logged_at_once(records: list["Record"]) -> None:
    now = [0.0]
    warn = RepeatedWarnings("{event.reason}", now=lambda: now[0])
    warn(lost("a"))
    warn.clear(events.DatabaseAnswers(after_s=1.0))
    warn(lost("a"))
    assert len(records) == 2
    now[0] = 200.0  # nothing has failed for so long, although no call that failed was repeated
    warn(lost("a"))
    assert len(records) == 3
