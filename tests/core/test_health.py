"""What is wrong is said in words, the gravest first, and all is well otherwise."""

from typing import Any

import pytest
from attrs import evolve

from reactor.core.health import NOT_LISTENING, POLLED, Process, about, headline, span, troubles

WELL = Process(mode="listening", mode_for_s=60.0, not_ready=[], open_stores={}, lag_s=0.001, spool_free_bytes=1 << 40)
REACTOR = {"id": "1", "host": "h", "mode": "listening", "seen_s_ago": 1.0}


def database(**uploads: Any) -> dict[str, Any]:
    idle_event = {"due": 0, "oldest_due_age_s": 0, "leases_expired": 0, "dead": 0, "dead_for_s": None}
    return {
        "cap": 100,
        "uploads": idle_event | uploads,
        "runs": {"stale": 0},
        "reactors": [REACTOR],
        "notification_queue_usage": 0.0,
    }


def test_all_is_well() -> None:
    assert troubles(database(), WELL) == []
    assert troubles(database(), None) == []
    assert headline([]) == "All is well."


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mode": "polling"}, "Notifications haven't arrived for 1m"),
        ({"mode": "starting"}, "Not listening for 1m"),
        ({"not_ready": ["not reconciled yet"]}, "Not ready: not reconciled yet."),
        ({"open_stores": {"files": 3661.0}}, "The store files has been down for everyone for 1h1m"),
        ({"lag_s": 2.5}, "Timers fire 2.5 s late"),
        ({"spool_free_bytes": 1 << 20}, "A spool has 1 MiB left"),
    ],
)
def test_what_a_reactor_knows_of_itself_is_said_once(changed: dict[str, Any], words: str) -> None:
    [said] = troubles(database(), evolve(WELL, **changed))
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("uploads", "words"),
    [
        ({"due": 1, "oldest_due_age_s": 61.2}, "An upload is overdue, the oldest for 1m1s."),
        ({"due": 101, "oldest_due_age_s": 90_061}, "More than 100 uploads are overdue, the oldest for 1d1h."),
        ({"leases_expired": 2}, "2 abandoned in mid-attempt"),
        ({"dead": 1, "dead_for_s": 5}, "One upload has been given up, 5s ago"),
        ({"dead": 7, "dead_for_s": 5}, "7 uploads have been given up, the first 5s ago"),
    ],
)
def test_what_the_database_tells_is_said_once(uploads: dict[str, Any], words: str) -> None:
    [said] = troubles(database(**uploads), WELL)
    assert said.startswith(words)


@pytest.mark.parametrize(
    ("stale", "words"),
    [
        (1, "One run is stale: no reactor has failed it yet."),
        (101, "More than 100 runs are stale: no reactor has failed them yet."),
    ],
)
def test_stale_runs_are_told_of(stale: int, words: str) -> None:
    assert troubles(database() | {"runs": {"stale": stale}}, WELL) == [words]


@pytest.mark.parametrize(("mode", "reason"), [("polling", POLLED), ("starting", NOT_LISTENING)])
def test_what_the_mode_tells_is_not_said_again_as_a_reason(mode: str, reason: str) -> None:
    [said] = troubles(database(), evolve(WELL, mode=mode, not_ready=[reason]))
    assert not said.startswith("Not ready")


def test_what_is_due_since_a_moment_is_nobodys_trouble() -> None:
    assert troubles(database(due=50, oldest_due_age_s=59.0), WELL) == []


def test_a_database_that_is_away_and_reactors_that_are_gone_are_said() -> None:
    assert troubles(None, WELL) == ["The database doesn't answer: what is shown below may be old."]
    gone = [REACTOR | {"seen_s_ago": 7200.0}]
    assert troubles(database() | {"reactors": gone}, None) == ["No reactor has been seen for 2h."]
    assert troubles(database() | {"reactors": []}, None) == ["No reactor runs."]
    deaf = [REACTOR, REACTOR | {"mode": "polling"}]
    [said] = troubles(database() | {"reactors": deaf}, None)
    assert said.startswith("1 of 2 reactors hear no notifications")


def test_several_are_counted_in_the_headline() -> None:
    found = troubles(database(dead=1, dead_for_s=1) | {"runs": {"stale": 3}, "notification_queue_usage": 0.6}, WELL)
    assert headline(found) == "3 things are wrong."
    assert found[-1].startswith("The notification queue is 60% full")


def test_figures_and_spans_are_short() -> None:
    assert (about(100, 100), about(101, 100), about(1234, 10_000)) == ("100", "more than 100", "1,234")
    seconds = [None, -5, 0.9, 59.9, 3599, 3661, 86_399, 90_000]
    assert [span(each) for each in seconds] == ["0s", "0s", "0s", "59s", "59m59s", "1h1m", "23h59m", "1d1h"]
