"""The calls that fail now are known with their reason, from the first failure until the database answers again."""

import pytest
from support.manual_clock import ManualClock

from reactor.core.events import DatabaseAnswers, DatabaseLost, Event, ListenerLost, Listening, Polling
from reactor.core.process import Fault
from reactor.engine.faults import DatabaseFaults
from reactor.postgres.call_health import FORGOTTEN_AFTER_S

PRESENCE = "report presence"


class Harness:
    def __init__(self, *, listens_elsewhere: bool = False) -> None:
        self.clock = ManualClock()
        self.faults = DatabaseFaults(self.clock, listens_elsewhere=listens_elsewhere)

    def emit(self, *events: Event, after_s: float = 0.0) -> None:
        self.clock.advance(after_s)
        for event in events:
            self.faults.subscriptions()[type(event)](event)

    @property
    def fault(self) -> Fault | None:
        return self.faults.current()


@pytest.fixture
def harness() -> Harness:
    return Harness()


def lost(doing: str, reason: str = "refused") -> DatabaseLost:
    return DatabaseLost(doing=doing, reason=reason)


def test_a_fault_lasts_from_the_first_failure_to_the_last(harness: Harness) -> None:
    assert harness.fault is None
    harness.emit(lost("claim uploads"))
    harness.emit(lost("claim uploads", "refused again"), after_s=3.0)
    harness.clock.advance(1.0)
    assert harness.fault == Fault(doing="claim uploads", reason="refused again", lasts_s=3.0, is_outage=False)
    harness.emit(DatabaseAnswers(after_s=4.0))
    assert harness.fault is None


def test_a_failure_that_is_not_repeated_is_forgotten(harness: Harness) -> None:
    harness.emit(lost("settle uploads"))
    harness.clock.advance(FORGOTTEN_AFTER_S - 1.0)
    assert harness.fault is not None
    harness.clock.advance(2.0)
    assert harness.fault is None
    harness.emit(lost("settle uploads"))
    assert harness.fault.lasts_s == 0.0


def test_an_outage_is_distinguished_from_a_fault_of_one_call(harness: Harness) -> None:
    harness.emit(ListenerLost(reason="server closed the connection"))
    assert harness.fault is not None
    assert not harness.fault.is_outage
    harness.emit(lost("listen", "connection refused"), lost(PRESENCE, "couldn't get a connection after 5.00 sec"))
    assert (harness.fault.is_outage, harness.fault.reason) == (True, "connection refused")


@pytest.mark.parametrize(
    ("failing", "is_outage"),
    [
        (["listen"], False),
        (["claim uploads"], False),
        (["claim uploads", "claim runs"], False),
        (["listen", "claim uploads"], True),
        ([PRESENCE], True),
    ],
)
def test_new_connections_or_the_simplest_call_show_an_outage(
    harness: Harness, failing: list[str], is_outage: bool
) -> None:
    harness.emit(*map(lost, failing))
    assert harness.fault is not None
    assert harness.fault.is_outage is is_outage


def test_a_server_that_takes_no_writes_is_an_outage_whatever_call_shows_it(harness: Harness) -> None:
    standby = "the server takes no writes: it is a standby"
    harness.emit(lost("listen", "cannot execute LISTEN during recovery"), lost("claim runs", standby))
    assert harness.fault is not None
    assert (harness.fault.is_outage, harness.fault.reason) == (True, standby)


def test_an_answer_to_a_call_does_not_end_the_fault_of_the_listening_connection(harness: Harness) -> None:
    harness.emit(lost("listen", "too many connections"), lost("claim uploads"), DatabaseAnswers(after_s=1.0))
    assert harness.fault is not None
    assert (harness.fault.doing, harness.fault.is_outage) == ("listen", False)
    harness.emit(Listening())
    assert harness.fault is None


def test_a_listening_connection_of_another_server_is_no_fault_of_the_database() -> None:
    harness = Harness(listens_elsewhere=True)
    harness.emit(ListenerLost(reason="refused"), lost("listen"))
    assert harness.fault is None
    assert harness.faults.listener_reason == "refused"


def test_listening_ends_the_fault_of_the_listening_connection_only(harness: Harness) -> None:
    harness.emit(ListenerLost(reason="refused"), lost("claim uploads"))
    harness.emit(Listening())
    assert harness.faults.listener_reason == ""
    assert harness.fault is not None
    assert harness.fault.doing == "claim uploads"
    harness.emit(Polling(interval_s=2.0, reason="a pooler?"), lost("listen", "aborted"))
    assert harness.faults.listener_reason == "a pooler?"
