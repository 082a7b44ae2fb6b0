"""The page's parts by themselves: cursors, sessions, memory, pictures, lives."""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from support.manual_clock import ManualClock

from reactor.core.events import (
    AttemptsStarted,
    AttemptStarted,
    BreakerMoved,
    Listening,
    Polling,
    Reconciled,
    Swept,
    UsageRepaired,
)
from reactor.web import charts
from reactor.web.auth import FAILURES, FAILURES_WITHIN_S, LIFETIME_S, SESSIONS, Sessions
from reactor.web.detail import WIDTH, Step, _pieces, _upload_steps
from reactor.web.filters import FIRST, LAST, Place, place_of
from reactor.web.http_errors import Refusal
from reactor.web.recent import BIN_S, BINS, Memory


@given(st.text(max_size=80))
@example("")
@example(Place("2026-02-30T00:00:00+00:00", UUID(int=1)).cursor())
@example(Place("'; drop table x; --", UUID(int=1)).cursor())
def test_any_text_is_a_place_or_is_refused(text: str) -> None:
    try:
        place = place_of(text, FIRST)
    except Refusal as refused:
        refusal = refused
    else:
        assert place == FIRST or place.cursor() == text.rstrip("=")
        return
    assert (refusal.status, refusal.code) == (400, "INVALID_ARGUMENT")


@given(
    st.one_of(
        st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        st.sampled_from(["infinity", "-infinity", "290000-02-28T23:59:59.999999+00:00", "10000-01-01T00:00:00+00:00"]),
    ),
    st.uuids(),
)
def test_a_place_that_was_given_out_is_read_again(moment: str, row_id: UUID) -> None:
    place = Place(moment, row_id)
    assert place_of(place.cursor(), LAST) == place


class _Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked_with(cookie: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})


def test_a_session_ends_by_time_and_the_oldest_gives_way() -> None:
    time = _Time()
    sessions = Sessions("token", is_private=False, now=time)
    first = sessions.begin("ana")
    found = sessions.find(asked_with(f"{sessions.cookie}={first}"))
    assert found is not None
    assert found.actor == "ana"
    time.now += LIFETIME_S
    assert sessions.find(asked_with(f"{sessions.cookie}={first}")) is None
    values = [sessions.begin(f"{n}") for n in range(SESSIONS + 1)]
    assert sessions.find(asked_with(f"{sessions.cookie}={values[0]}")) is None
    assert sessions.find(asked_with(f"{sessions.cookie}={values[1]}")) is not None


def test_guesses_are_forgotten_in_time_and_counted_by_address() -> None:
    time = _Time()
    sessions = Sessions("token", is_private=True, now=time)
    for _ in range(FAILURES):
        with pytest.raises(Refusal, match="isn't the token"):
            sessions.check("guess", "here")
    with pytest.raises(Refusal, match="wait 60 s"):
        sessions.check("token", "here")
    sessions.check("token", "there")
    time.now += FAILURES_WITHIN_S
    sessions.check("token", "here")


def test_without_a_token_nothing_is_it() -> None:
    with pytest.raises(Refusal):
        Sessions(None, is_private=True).check("", "here")


def started(lag_s: float) -> AttemptsStarted:
    return AttemptsStarted(attempts=[AttemptStarted(upload_id=uuid4(), attempt=1, lag_s=lag_s)])


def test_what_happens_is_remembered_and_bounded() -> None:
    clock = ManualClock()
    changes: list[None] = []
    memory = Memory(clock, on_change=lambda: changes.append(None))
    for lag_s in (0.001, 0.002, 0.003, 0.1):
        memory.hear(started(lag_s))
    assert (memory.reactions.quantile(0.5), memory.reactions.quantile(0.95)) == (0.003, 0.1)
    for _ in range(10_000):
        memory.hear(started(0.001))
    [only] = memory.reactions.bins()
    assert only.count == 10_004
    assert len(only.kept) < 1_000
    clock.advance(BIN_S * BINS + 1)
    assert memory.reactions.quantile(0.5) is None

    memory.hear(Listening())
    memory.hear(BreakerMoved(store="files", is_open=True))
    clock.advance(5.0)
    process = memory.process(not_ready=[], spool_free_bytes=None)
    assert process.mode == "listening"
    assert process.open_stores["files"] == pytest.approx(5.0)
    memory.hear(Polling(interval_s=2.0, reason="deaf"))
    memory.hear(BreakerMoved(store="files", is_open=False))
    assert memory.process(not_ready=[], spool_free_bytes=None).open_stores == {}
    assert len(changes) == 4


def test_what_a_pass_found_that_notifications_missed_is_of_that_pass() -> None:
    memory = Memory(ManualClock(), on_change=lambda: None)
    done = Reconciled(pass_id=uuid4(), began_at=0.0, ended_at=1.0, changed=0, links=())
    memory.hear(Swept(reaction="uploads", found=5, missed=2, duration_s=0.1))
    memory.hear(UsageRepaired(kind="reservations", count=1))
    memory.hear(UsageRepaired(kind="months", count=9))
    memory.hear(done)
    assert memory.reconciled is not None
    assert memory.reconciled.missed == {"uploads": 2, "reservations": 1}
    memory.hear(Swept(reaction="uploads", found=0, missed=0, duration_s=0.1))
    memory.hear(done)
    assert memory.reconciled.missed == {}
    assert memory.missed == {"uploads": 2, "reservations": 1}


@given(st.lists(st.integers(0, 10**9), max_size=100))
def test_bars_stay_inside_their_picture_and_something_is_never_drawn_as_nothing(counts: list[int]) -> None:
    drawn = charts.bars(counts)
    assert [bar.count for bar in drawn] == counts
    for bar in drawn:
        assert 0 <= bar.y <= bar.y + bar.height <= charts.HEIGHT + 0.01
        assert (bar.height > 0) == (bar.count > 0)


def test_a_line_has_gaps_where_nobody_looked_and_forgets_what_is_old() -> None:
    points = [(0.0, 9.0), (90.0, 5.0), (93.0, 10.0), (140.0, 0.0)]
    drawn = charts.chart([("due", points)], span_s=60.0, now=150.0, gap_s=12.0)
    [line] = drawn.lines
    assert [len(piece.split()) for piece in line.pieces] == [2, 2]
    assert line.pieces[0] == "0.0,30.0 15.0,0.0"
    assert drawn.most == 10.0


@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_a_life_fills_its_bar_and_no_step_is_too_narrow_to_be_seen(lengths: list[float]) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    steps = [Step(kind="wait", words="", began=at, ended=at + timedelta(seconds=length)) for length in lengths]
    pieces = _pieces(steps)
    assert len(pieces) == len(steps)
    assert all(piece.width >= 1 and piece.x + piece.width <= WIDTH + 1 for piece in pieces)


def test_a_life_is_told_in_order_also_where_an_older_version_wrote_less() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def after(seconds: float) -> str:
        return (at + timedelta(seconds=seconds)).isoformat()

    row = {"created_at": after(0), "updated_at": after(90), "next_retry_at": after(200), "status": "failed",
           "retry_count": 2}  # fmt: skip
    errors = [
        {"at": after(10), "attempt": 1, "code": "STORAGE_UNAVAILABLE", "message": "503"},
        {"at": after(90), "began": after(70), "attempt": 2, "code": "UNHEARD_OF", "message": "?"},
    ]
    steps = list(_upload_steps(row, errors, at + timedelta(seconds=100)))
    assert [(step.kind, step.lasted) for step in steps] == [
        ("start", ""),
        ("attempt", "0ms"),
        ("wait", "1m"),
        ("attempt", "20s"),
        ("ahead", "1m50s"),
    ]
    assert steps[1].next_step == "No action is needed; the reactor retries with backoff."
    assert steps[3].next_step is None
    overdue = list(_upload_steps(row, errors, at + timedelta(seconds=300)))[-1]
    assert overdue.words == "attempt 3 has been due since then"
    assert evolve(overdue, words="").kind == "ahead"
