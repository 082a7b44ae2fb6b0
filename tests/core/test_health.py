"""Each problem is reported in one sentence, the worst first. The headline without problems is "All is well."."""

from typing import Any

import pytest
from attrs import evolve

from reactor.core.breakers import OpenBreaker
from reactor.core.errors import StorageRefused, StorageUnavailable
from reactor.core.health import (
    NOT_LISTENING,
    POLLED,
    Process,
    count_text,
    duration_text,
    headline,
    reactor_name,
    troubles,
)
from reactor.core.refusal import Guard, Place

WELL = Process(
    mode="listening", mode_for_s=60.0, not_ready=[], open_breakers=[], refused={}, lag_s=0.001, spool_free_bytes=1 << 40
)
REACTOR = {"id": "1", "host": "h", "mode": "listening", "seen_s_ago": 1.0}


def opened(error: StorageUnavailable | StorageRefused) -> OpenBreaker:
    """Return the open breaker of the store "files" after this error."""
    place = Place(Guard.STORE, "files")
    return OpenBreaker(place=place, refusal=error.refusal, code=error.code, message=str(error))


def database(**uploads: Any) -> dict[str, Any]:
    nothing_due = {"due": 0, "oldest_due_age_s": 0, "leases_expired": 0, "dead": 0, "dead_for_s": None}
    return {
        "cap": 100,
        "uploads": nothing_due | uploads,
        "runs": {"stale": 0},
        "reactors": [REACTOR],
        "notification_queue_usage": 0.0,
    }


def test_all_is_well() -> None:
    assert troubles(database(), WELL) == []
    assert troubles(database(), None) == []
    assert headline([]) == "All is well."


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"mode": "polling"}, "Notifications have not arrived for 1m: the reactor polls the database every 2 s."),
        ({"mode": "starting"}, "The reactor has not listened for 1m: only reconciliation finds failed uploads."),
        ({"not_ready": ["not reconciled yet"]}, "Not ready: not reconciled yet."),
        (
            {"open_breakers": [(opened(StorageUnavailable("503", http_status=503)), 3661.0)]},
            "The store files has been down for 1h1m: the uploads wait and keep their retries.",
        ),
        (
            {"open_breakers": [(evolve(opened(StorageUnavailable("503")), is_for_all=False), 5.0)]},
            "The store files has been failing for some users for 5s: the uploads wait and keep their retries.",
        ),
        (
            {
                "open_breakers": [(opened(StorageRefused("400", reason="ExpiredToken", check="AWS_PROFILE")), 5.0)],
                "not_ready": ["The store files has refused the reactor with STORAGE_REFUSED (ExpiredToken)"],
            },
            (
                "The store files has refused the reactor with STORAGE_REFUSED (ExpiredToken) for 5s: the uploads wait"
                " and keep their retries. Check AWS_PROFILE."
            ),
        ),
        (
            {"refused": {"runs": (2, 'violates CHECK "archived"')}},
            'The database refuses 2 runs: violates CHECK "archived". Each is tried again, at growing intervals.',
        ),
        (
            {"refused": {"uploads": (1, "no")}},
            "The database refuses 1 upload: no. Each is tried again, at growing intervals.",
        ),
        ({"lag_s": 2.5}, "Timers fire 2.5 s late: this process has too much work or too little CPU."),
        ({"spool_free_bytes": 1 << 20}, "A spool has only 1 MiB free: new failed uploads may be lost."),
        (
            {"spans_lost": 1, "spans_lost_ago_s": 61.0},
            "1 span was lost 1m1s ago: traces have gaps. No upload is affected.",
        ),
        (
            {"spans_lost": 1234, "spans_lost_ago_s": 599.0},
            "1,234 spans were lost, the last 9m59s ago: traces have gaps. No upload is affected.",
        ),
    ],
)
def test_each_trouble_of_a_reactor_is_one_sentence(changed: dict[str, Any], sentence: str) -> None:
    assert troubles(database(), evolve(WELL, **changed)) == [sentence]


def test_lost_spans_are_reported_for_ten_minutes() -> None:
    assert troubles(database(), evolve(WELL, spans_lost=5, spans_lost_ago_s=600.0)) == []


@pytest.mark.parametrize(
    ("uploads", "sentence"),
    [
        ({"due": 1, "oldest_due_age_s": 61.2}, "1 upload has been overdue for 1m1s."),
        ({"due": 101, "oldest_due_age_s": 90_061}, "More than 100 uploads are overdue, the oldest for 1d1h."),
        ({"leases_expired": 1}, "1 upload is abandoned in an attempt: no reactor has taken over yet."),
        ({"leases_expired": 2}, "2 uploads are abandoned in an attempt: no reactor has taken over yet."),
        ({"dead": 1, "dead_for_s": 5}, "1 upload has been dead for 5s: retry, cancel or purge it."),
        ({"dead": 7, "dead_for_s": 5}, "7 uploads are dead, the oldest for 5s: retry, cancel or purge them."),
    ],
)
def test_each_trouble_of_uploads_is_one_sentence(uploads: dict[str, Any], sentence: str) -> None:
    assert troubles(database(**uploads), WELL) == [sentence]


@pytest.mark.parametrize(
    ("stale", "sentence"),
    [
        (1, "1 run is stale: no reactor has failed it yet."),
        (101, "More than 100 runs are stale: no reactor has failed them yet."),
    ],
)
def test_stale_runs_are_one_sentence(stale: int, sentence: str) -> None:
    assert troubles(database() | {"runs": {"stale": stale}}, WELL) == [sentence]


@pytest.mark.parametrize(("mode", "reason"), [("polling", POLLED), ("starting", NOT_LISTENING)])
def test_a_reason_that_the_mode_contains_is_not_repeated(mode: str, reason: str) -> None:
    [sentence] = troubles(database(), evolve(WELL, mode=mode, not_ready=[reason]))
    assert not sentence.startswith("Not ready")


def test_uploads_due_for_less_than_a_minute_are_no_trouble() -> None:
    assert troubles(database(due=50, oldest_due_age_s=59.0), WELL) == []


def test_an_unreachable_database_and_missing_reactors_are_reported() -> None:
    assert troubles(None, WELL) == ["The database does not answer: the figures below may be old."]
    answers = evolve(WELL, mode="starting", not_ready=[NOT_LISTENING, "the server takes no writes: it is a standby"])
    assert troubles(None, answers) == [
        "The database does not answer (the server takes no writes: it is a standby): the figures below may be old."
    ]
    assert troubles(None, evolve(WELL, lag_s=2.5))[1].startswith("Timers fire 2.5 s late")
    gone = [REACTOR | {"seen_s_ago": 7200.0}]
    assert troubles(database() | {"reactors": gone}, None) == ["No reactor has reported for 2h."]
    assert troubles(database() | {"reactors": []}, None) == ["No reactor is running."]
    one_polls = [REACTOR, REACTOR | {"mode": "polling"}]
    sentence = "1 of 2 reactors receives no notifications and polls the database."
    assert troubles(database() | {"reactors": one_polls}, None) == [sentence]


def test_the_cause_comes_first() -> None:
    found = troubles(database(), evolve(WELL, mode="starting", not_ready=["the cause", NOT_LISTENING]))
    assert found[0] == "Not ready: the cause."
    assert len(found) == 2


@pytest.mark.parametrize(
    ("other", "sentences"),
    [
        ({"mode": "polling"}, ["1 of 2 reactors receives no notifications and polls the database."]),
        (
            {"seen_s_ago": 21.0, "mode": "gone"},
            ["Reactor h:8321 (process 7) has not reported for 21s: was it stopped?"],
        ),
        ({"seen_s_ago": 601.0, "mode": "gone"}, []),
        ({"mode": "starting"}, []),
    ],
)
def test_the_page_of_one_reactor_describes_the_others(other: dict[str, Any], sentences: list[str]) -> None:
    fleet = [REACTOR, REACTOR | {"pid": 7, "port": 8321} | other]
    assert troubles(database() | {"reactors": fleet}, WELL) == sentences


def test_a_reactor_does_not_report_itself_twice() -> None:
    [sentence] = troubles(database() | {"reactors": [REACTOR | {"mode": "polling"}]}, evolve(WELL, mode="polling"))
    assert sentence.startswith("Notifications have not arrived")


def test_two_reactors_of_a_host_have_different_names() -> None:
    names = [reactor_name({"host": "h", "pid": pid, "port": port}) for pid, port in ((7, 8321), (8, 8322), (9, None))]
    assert names == ["h:8321 (process 7)", "h:8322 (process 8)", "h (process 9)"]


def test_the_headline_counts_several_troubles() -> None:
    found = troubles(database(dead=1, dead_for_s=1) | {"runs": {"stale": 3}, "notification_queue_usage": 0.6}, WELL)
    assert headline(found) == "3 things are wrong."
    assert found[-1].startswith("The notification queue is 60% full")


def test_counts_and_durations_are_short() -> None:
    assert (count_text(100, 100), count_text(101, 100), count_text(1234, 10_000)) == ("100", "more than 100", "1,234")
    seconds = [None, -5, 0.9, 59.9, 3599, 3661, 86_399, 90_000]
    assert [duration_text(each) for each in seconds] == ["0s", "0s", "0s", "59s", "59m59s", "1h1m", "23h59m", "1d1h"]
