"""Each problem is reported in one sentence, causes first. What a stated cause explains isn't reported as well."""

from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.breakers import OpenBreaker
from reactor.core.errors import StorageRefused, StorageUnavailable
from reactor.core.health import (
    NOT_LISTENING,
    NOT_RECONCILED,
    POLLED,
    count_text,
    headline,
    reasons_by_cause,
    shared_refusal,
    troubles,
)
from reactor.core.process import Fault, Process
from reactor.core.refusal import Guard, Place

WELL = Process(
    instance="1",
    mode="listening",
    mode_for_s=60.0,
    mode_reason="",
    fault=None,
    not_ready=[],
    open_breakers=[],
    refused={},
    lag_s=0.001,
    spool_free_bytes=1 << 40,
)
REACTOR = {"id": "1", "host": "h", "mode": "listening", "seen_s_ago": 1.0}
OUTAGE = Fault(doing="report presence", reason="connection refused", lasts_s=12.0, is_outage=True)
STANDBY = Fault(
    doing="claim uploads", reason="the server takes no writes: it is a standby", lasts_s=25.0, is_outage=True
)
EXPIRED = StorageRefused("400", reason="ExpiredToken", check="AWS_PROFILE")


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


def behind() -> dict[str, Any]:
    """Return the figures of a database in which everything waits and every other reactor is silent or polls."""
    silent, polling = REACTOR | {"id": "2", "mode": "silent"}, REACTOR | {"id": "3", "mode": "polling"}
    uploads = {"due": 9, "oldest_due_age_s": 3600, "leases_expired": 2}
    return database(**uploads) | {"runs": {"stale": 4}, "reactors": [REACTOR, silent, polling]}


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


@pytest.mark.parametrize("mode", ["polling", "starting"])
def test_reasons_that_the_mode_contains_are_not_repeated_and_the_mode_has_its_reason(mode: str) -> None:
    not_ready = [POLLED, NOT_LISTENING, NOT_RECONCILED]
    process = evolve(WELL, mode=mode, mode_reason="too many connections", not_ready=not_ready)
    [sentence] = troubles(database(), process)
    assert "(too many connections)" in sentence
    assert not sentence.startswith("Not ready")


# causes and consequences


@pytest.mark.parametrize(
    ("fault", "first"),
    [
        (OUTAGE, "The database does not answer: connection refused (for 12s)."),
        (
            STANDBY,
            "The server takes no writes: it is a standby (for 25s). Nothing is stored until it takes writes again.",
        ),
    ],
)
def test_an_outage_is_the_only_trouble_of_what_it_explains(fault: Fault, first: str) -> None:
    not_ready = ["the database hasn't answered for 11 s", NOT_LISTENING, NOT_RECONCILED]
    process = evolve(WELL, mode="starting", fault=fault, not_ready=not_ready)
    assert troubles(behind(), process) == [first]


def test_what_an_outage_does_not_explain_is_reported_after_it() -> None:
    process = evolve(WELL, fault=OUTAGE, spool_free_bytes=1 << 20, open_breakers=[(opened(EXPIRED), 5.0)])
    found = troubles(behind() | {"uploads": database(dead=1, dead_for_s=5)["uploads"]}, process)
    begins = ["The database does not", "The store files has refused", "A spool has only", "1 upload has been dead"]
    assert [sentence.startswith(begin) for sentence, begin in zip(found, begins, strict=True)] == [True] * 4


def test_a_database_that_does_not_answer_the_page_is_its_first_sentence_with_the_reason() -> None:
    fault = Fault(doing="read the figures", reason="connection refused", lasts_s=7.0, is_outage=True)
    process = evolve(WELL, mode="starting", fault=fault, not_ready=[NOT_LISTENING, NOT_RECONCILED])
    first = "The database does not answer: connection refused (for 7s). The figures below may be old."
    assert troubles(None, process) == [first]
    reason = "the server takes no writes: it is a standby"
    first = (
        "The server takes no writes: it is a standby (for 7s). Nothing is stored until it takes writes again."
        " The figures below may be old."
    )
    assert troubles(None, evolve(process, fault=evolve(fault, reason=reason))) == [first]


def test_a_reason_of_readiness_about_the_database_explains_the_rest_too() -> None:
    reason = "claims of uploads have failed for 12 s: permission denied"
    process = evolve(WELL, mode="starting", not_ready=[NOT_LISTENING, reason])
    assert troubles(behind(), process) == [f"Not ready: {reason}."]


@pytest.mark.parametrize(("lasts_s", "is_reported"), [(0.0, False), (1.9, False), (2.0, True)])
def test_a_call_that_fails_is_reported_if_it_fails_for_two_seconds(lasts_s: float, is_reported: bool) -> None:
    fault = Fault(doing="claim runs", reason="canceling statement", lasts_s=lasts_s, is_outage=False)
    expected = ["The reactor can't claim runs: canceling statement (for 2s)."] if is_reported else []
    assert troubles(database(), evolve(WELL, fault=fault)) == expected


@pytest.mark.parametrize(
    ("doing", "explained"),
    [("claim uploads", "overdue"), ("settle uploads", "overdue"), ("claim runs", "stale"), ("reconcile", "nothing")],
)
def test_a_failing_call_explains_the_work_that_it_would_do(doing: str, explained: str) -> None:
    waiting = database(due=3, oldest_due_age_s=600) | {"runs": {"stale": 1}}
    fault = Fault(doing=doing, reason="permission denied", lasts_s=9.0, is_outage=False)
    first, *rest = troubles(waiting, evolve(WELL, fault=fault))
    assert first == f"The reactor can't {doing}: permission denied (for 9s)."
    assert {word for word in ("overdue", "stale") if word in " ".join(rest)} == {"overdue", "stale"} - {explained}


def test_a_listening_connection_that_fails_alone_is_not_called_an_outage() -> None:
    fault = Fault(doing="listen", reason="too many connections", lasts_s=60.0, is_outage=False)
    process = evolve(WELL, mode="starting", mode_reason="too many connections", fault=fault, not_ready=[NOT_LISTENING])
    sentence = "The reactor has not listened for 1m (too many connections): only reconciliation finds failed uploads."
    assert troubles(database(), process) == [sentence]


def test_a_full_notification_queue_explains_that_the_reactors_poll() -> None:
    full = behind() | {"notification_queue_usage": 0.6, "uploads": database()["uploads"], "runs": {"stale": 0}}
    polling = evolve(WELL, mode="polling", not_ready=[POLLED])
    found = troubles(full | {"reactors": [REACTOR, REACTOR | {"id": "3", "mode": "polling"}]}, polling)
    assert [sentence.startswith("The notification queue is 60% full") for sentence in found] == [True]


def test_a_store_that_is_down_explains_overdue_uploads_but_a_bucket_does_not() -> None:
    waiting = database(due=3, oldest_due_age_s=600)
    store = opened(EXPIRED)
    assert len(troubles(waiting, evolve(WELL, open_breakers=[(store, 5.0)]))) == 1
    assert len(troubles(waiting, evolve(WELL, open_breakers=[(evolve(store, is_for_all=False), 5.0)]))) == 2
    bucket = evolve(store, place=Place(Guard.BUCKET, "files"))
    assert len(troubles(waiting, evolve(WELL, open_breakers=[(bucket, 5.0)]))) == 2


def test_no_running_reactor_explains_all_work_that_waits() -> None:
    assert troubles(behind() | {"reactors": []}, None) == ["No reactor is running."]


@given(
    st.booleans(),
    st.sampled_from([None, OUTAGE, STANDBY, evolve(OUTAGE, doing="claim uploads", is_outage=False)]),
    st.sampled_from(["starting", "listening", "polling"]),
    st.lists(
        st.sampled_from([NOT_LISTENING, POLLED, NOT_RECONCILED, "the database hasn't answered for 11 s"]), unique=True
    ),
    st.sampled_from([0.0, 0.6]),
)
def test_the_first_sentence_is_about_the_database_if_it_has_a_fault(
    answers: bool, fault: Fault | None, mode: str, not_ready: list[str], usage: float
) -> None:
    process = evolve(WELL, fault=fault, mode=mode, not_ready=not_ready)
    found = troubles(behind() | {"notification_queue_usage": usage} if answers else None, process)
    assert len(set(found)) == len(found)
    if fault is not None or not answers:
        assert found[0].startswith(("The database does not answer", "The server takes no writes", "The reactor can't"))
    if (fault is not None and fault.is_outage) or not answers:
        assert not any(sentence.startswith("Not ready") for sentence in found)


# readiness


REFUSED = shared_refusal(opened(EXPIRED))


@pytest.mark.parametrize(
    ("reasons", "fault", "listener", "expected"),
    [
        ([NOT_LISTENING], OUTAGE, "", ["the database does not answer: connection refused", NOT_LISTENING]),
        ([NOT_RECONCILED], STANDBY, "", [STANDBY.reason, NOT_RECONCILED]),
        ([NOT_LISTENING], None, "refused", ["the reactor can't listen: refused", NOT_LISTENING]),
        ([POLLED], None, "a pooler?", ["no test notification comes back: a pooler?", POLLED]),
        ([NOT_RECONCILED], None, "refused", [NOT_RECONCILED]),
        ([NOT_LISTENING, "the database hasn't answered for 11 s"], OUTAGE, "",
         ["the database hasn't answered for 11 s", NOT_LISTENING]),
        ([REFUSED, NOT_LISTENING], OUTAGE, "",
         ["the database does not answer: connection refused", REFUSED, NOT_LISTENING]),
        (["shutting down", NOT_LISTENING], OUTAGE, "",
         ["shutting down", "the database does not answer: connection refused", NOT_LISTENING]),
        ([REFUSED], OUTAGE, "", [REFUSED]),
        ([], OUTAGE, "refused", []),
    ],
)  # fmt: skip
def test_readiness_lists_the_cause_first_and_stays_ready_without_a_reason(
    reasons: list[str], fault: Fault | None, listener: str, expected: list[str]
) -> None:
    assert reasons_by_cause(reasons, fault, listener) == expected


def test_uploads_due_for_less_than_a_minute_are_no_trouble() -> None:
    assert troubles(database(due=50, oldest_due_age_s=59.0), WELL) == []


def test_an_unreachable_database_and_missing_reactors_are_reported() -> None:
    assert troubles(None, WELL) == ["The database does not answer: the figures below may be old."]
    gone = [REACTOR | {"seen_s_ago": 7200.0, "mode": "silent"}]
    assert troubles(database() | {"reactors": gone}, None) == ["No reactor has reported for 2h."]
    assert troubles(database() | {"reactors": []}, None) == ["No reactor is running."]


def test_a_reactor_does_not_report_itself_twice() -> None:
    [sentence] = troubles(database() | {"reactors": [REACTOR | {"mode": "polling"}]}, evolve(WELL, mode="polling"))
    assert sentence.startswith("Notifications have not arrived")


@pytest.mark.parametrize("is_outage", [False, True])
def test_only_an_outage_explains_that_notifications_do_not_arrive(is_outage: bool) -> None:
    """A missing grant makes the reactor unready, and it can have another fault at the same time."""
    reason = "permission denied for function claim_uploads"
    fault = Fault(doing="claim uploads", reason=reason, lasts_s=9.0, is_outage=is_outage)
    found = troubles(database(), evolve(WELL, mode="polling", fault=fault, not_ready=[reason, POLLED]))
    assert len(found) == (1 if is_outage else 2)


def test_the_headline_counts_several_troubles() -> None:
    found = troubles(database(dead=1, dead_for_s=1) | {"runs": {"stale": 3}, "notification_queue_usage": 0.6}, WELL)
    assert headline(found) == "3 things are wrong."
    assert found[0].startswith("The notification queue is 60% full")


def test_counts_are_short() -> None:
    assert (count_text(100, 100), count_text(101, 100), count_text(1234, 10_000)) == ("100", "more than 100", "1,234")
