"""Parts of the page without a server: cursors, sessions, recent activity, charts, timelines."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from support.breaker_events import breaker_closed, breaker_opened
from support.manual_clock import ManualClock

from reactor.core.events import (
    AttemptsStarted,
    AttemptStarted,
    Event,
    Listening,
    Polling,
    Reconciled,
    Swept,
    UsageRepaired,
)
from reactor.core.process import Process
from reactor.web import charts
from reactor.web.auth import FAILURE_WINDOW_S, MAX_FAILURES, MAX_SESSIONS, SESSION_LIFETIME_S, Sessions
from reactor.web.detail import WIDTH, TimelineStep, timeline_bars, upload_timeline
from reactor.web.filters import HIGHEST, LOWEST, Cursor, parse_cursor
from reactor.web.http_errors import HttpError
from reactor.web.recent import BUCKET_S, BUCKETS, RecentActivity


@given(st.text(max_size=80))
@example("")
@example(Cursor("2026-02-30T00:00:00+00:00", UUID(int=1)).encode())
@example(Cursor("'; drop table x; --", UUID(int=1)).encode())
def test_any_text_is_a_cursor_or_is_refused(text: str) -> None:
    try:
        cursor = parse_cursor(text, LOWEST)
    except HttpError as raised:
        error = raised
    else:
        assert cursor == LOWEST or cursor.encode() == text.rstrip("=")
        return
    assert (error.status_code, error.code) == (400, "INVALID_ARGUMENT")


@given(
    st.one_of(
        st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        st.sampled_from(["infinity", "-infinity", "290000-02-28T23:59:59.999999+00:00", "10000-01-01T00:00:00+00:00"]),
    ),
    st.uuids(),
)
def test_an_encoded_cursor_is_parsed_to_the_same(moment: str, row_id: UUID) -> None:
    cursor = Cursor(moment, row_id)
    assert parse_cursor(cursor.encode(), HIGHEST) == cursor


class _Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request_with(cookie: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})


def test_a_session_ends_after_its_lifetime_or_as_the_oldest_of_too_many() -> None:
    time = _Time()
    sessions = Sessions("token", is_private=False, port=1, now=time)
    first = sessions.start("ana")
    found = sessions.find(request_with(f"{sessions.cookie_name}={first}"))
    assert found is not None
    assert found.actor == "ana"
    time.now += SESSION_LIFETIME_S
    assert sessions.find(request_with(f"{sessions.cookie_name}={first}")) is None
    values = [sessions.start(f"{n}") for n in range(MAX_SESSIONS + 1)]
    assert sessions.find(request_with(f"{sessions.cookie_name}={values[0]}")) is None
    assert sessions.find(request_with(f"{sessions.cookie_name}={values[1]}")) is not None


def test_wrong_tokens_are_counted_by_address_for_a_minute() -> None:
    time = _Time()
    sessions = Sessions("token", is_private=True, port=1, now=time)
    for _ in range(MAX_FAILURES):
        with pytest.raises(HttpError, match="the token is wrong"):
            sessions.check_token("guess", "here")
    with pytest.raises(HttpError, match="wait 60 s"):
        sessions.check_token("guess", "here")
    with pytest.raises(HttpError, match="the token is wrong"):
        sessions.check_token("guess", "there")
    time.now += FAILURE_WINDOW_S
    with pytest.raises(HttpError, match="the token is wrong"):
        sessions.check_token("guess", "here")


def test_the_right_token_is_accepted_after_any_number_of_wrong_ones() -> None:
    sessions = Sessions("token", is_private=True, port=1)
    for guess in ("", "toke", "token ", "TOKEN", "t\xf6ken", "\udcff", "x" * 70_000) * MAX_FAILURES:
        with pytest.raises(HttpError):
            sessions.check_token(guess, "here")
        sessions.check_token("token", "here")


def test_without_a_configured_token_every_token_is_wrong() -> None:
    with pytest.raises(HttpError, match="the token is wrong"):
        Sessions(None, is_private=True, port=1).check_token("", "here")


def started(lag_s: float) -> AttemptsStarted:
    return AttemptsStarted(attempts=[AttemptStarted(upload_id=uuid4(), attempt=1, lag_s=lag_s)])


def emit(recent: RecentActivity, event: Event) -> None:
    """Pass an event to the subscriptions of `recent`, as the reactor does."""
    recent.subscriptions()[type(event)](event)


def test_reaction_times_are_sampled_in_bounded_memory() -> None:
    clock = ManualClock()
    recent = RecentActivity(clock)
    for lag_s in (0.001, 0.002, 0.003, 0.1):
        emit(recent, started(lag_s))
    assert (recent.reactions.quantile(0.5), recent.reactions.quantile(0.95)) == (0.003, 0.1)
    for _ in range(10_000):
        emit(recent, started(0.001))
    [only] = recent.reactions.buckets()
    assert only.count == 10_004
    assert len(only.samples) < 1_000
    clock.advance(BUCKET_S * BUCKETS + 1)
    assert recent.reactions.quantile(0.5) is None


def process_of(recent: RecentActivity) -> Process:
    return recent.process(instance="1", fault=None, mode_reason="", not_ready=[], spool_free_bytes=None)


def test_a_new_mode_or_a_moved_breaker_is_a_change() -> None:
    clock = ManualClock()
    recent = RecentActivity(clock)

    def changes(event: Event) -> bool:
        recent.changed.clear()
        emit(recent, event)
        return recent.changed.is_set()

    assert changes(Listening())
    assert changes(breaker_opened("files"))
    clock.advance(5.0)
    process = process_of(recent)
    assert process.mode == "listening"
    [(opened, open_for_s)] = process.open_breakers
    assert opened.place.name == "files"
    assert open_for_s == pytest.approx(5.0)
    assert changes(Polling(interval_s=2.0, reason="no notifications"))
    assert not changes(Polling(interval_s=2.0, reason="no notifications"))
    assert changes(breaker_closed("files"))
    assert process_of(recent).open_breakers == []


def test_missed_rows_are_counted_per_reconciliation_and_since_the_start() -> None:
    recent = RecentActivity(ManualClock())
    done = Reconciled(pass_id=uuid4(), began_at=0.0, ended_at=1.0, changed=0, links=())
    emit(recent, Swept(reaction="uploads", found=5, missed=2, duration_s=0.1))
    emit(recent, UsageRepaired(kind="reservations", count=1))
    emit(recent, UsageRepaired(kind="months", count=9))
    emit(recent, done)
    assert recent.reconciled_at is not None
    assert recent.missed_in_last_pass == {"uploads": 2, "reservations": 1}
    emit(recent, Swept(reaction="uploads", found=0, missed=0, duration_s=0.1))
    emit(recent, done)
    assert recent.missed_in_last_pass == {}
    assert recent.missed == {"uploads": 2, "reservations": 1}


@given(st.lists(st.integers(0, 10**9), max_size=100))
def test_bars_stay_inside_their_picture_and_only_zero_is_invisible(counts: list[int]) -> None:
    drawn = charts.histogram(counts)
    assert [bar["count"] for bar in drawn] == counts
    for bar in drawn:
        assert 0 <= bar["y"] <= bar["y"] + bar["height"] <= charts.HEIGHT + 0.01
        assert (bar["height"] > 0) == (bar["count"] > 0)


def test_a_line_has_gaps_without_values_and_drops_old_points() -> None:
    points = [(0.0, 9.0), (90.0, 5.0), (93.0, 10.0), (140.0, 0.0)]
    drawn = charts.line_chart({"due": points}, span_s=60.0, now=150.0, gap_s=12.0)
    [segments] = drawn["lines"].values()
    assert [len(segment.split()) for segment in segments] == [2, 2]
    assert segments[0] == "0.0,30.0 15.0,0.0"
    assert drawn["maximum"] == 10.0


@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_a_timeline_fills_its_width_and_every_step_is_visible(lengths: list[float]) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    steps = [TimelineStep(kind="wait", text="", began=at, ended=at + timedelta(seconds=length)) for length in lengths]
    bars = timeline_bars(steps)
    assert len(bars) == len(steps)
    assert all(width >= 1 and x + width <= WIDTH + 1 for x, width, _ in bars)


def test_a_timeline_is_in_order_even_if_an_attempt_has_no_beginning() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def after(seconds: float) -> str:
        return (at + timedelta(seconds=seconds)).isoformat()

    row = {"created_at": after(0), "updated_at": after(90), "next_retry_at": after(200), "status": "failed",
           "retry_count": 2}  # fmt: skip
    errors = [
        {"at": after(10), "attempt": 1, "code": "STORAGE_UNAVAILABLE", "message": "503"},
        {"at": after(90), "began": after(70), "attempt": 2, "code": "UNHEARD_OF", "message": "?"},
    ]
    steps = list(upload_timeline(row, errors, at + timedelta(seconds=100)))
    assert [(step.kind, step.duration) for step in steps] == [
        ("start", ""),
        ("attempt", "0ms"),
        ("wait", "1m"),
        ("attempt", "20s"),
        ("ahead", "1m50s"),
    ]
    assert steps[1].advice == "No action is needed; the reactor retries with backoff."
    assert steps[3].advice is None
    overdue = list(upload_timeline(row, errors, at + timedelta(seconds=300)))[-1]
    assert overdue.text == "attempt 3 has been due since then"
    assert evolve(overdue, text="").kind == "ahead"
