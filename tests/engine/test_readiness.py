"""A reactor that isn't ready reports the reasons and continues to run."""

from collections.abc import Callable, Sequence
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from anyio import create_task_group, fail_after, sleep, to_thread
from psycopg import sql
from support.app import App
from support.manual_clock import ManualClock, idle_event
from support.process import fetch
from support.recorder import Recorder

from reactor.app import Reactor
from reactor.core.errors import DatabaseForbidden, DatabaseRefused, DatabaseUnavailable
from reactor.core.events import DatabaseAnswers, DatabaseLost, Event, ListenerLost, Listening, Polling, Reconciled
from reactor.core.health import NOT_LISTENING, POLLED
from reactor.engine import listen, readiness
from reactor.engine.readiness import Readiness
from reactor.postgres import statements
from reactor.postgres.call_health import CallHealth, WatchedCalls

_POLLING_INTERVAL_S = 0.02
AWAY = DatabaseUnavailable("the test took it away")
LOCKED = DatabaseUnavailable("canceling statement due to lock timeout", is_busy=True)
STANDBY = DatabaseUnavailable("the server takes no writes: it is a standby")
FORBIDDEN = DatabaseForbidden("permission denied for function claim_uploads: run `reactor migrate`")


class ReadinessHarness:
    """Readiness on a manual clock. The test emits the events, and sets the time of the database's last answer."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.health = CallHealth(self.clock)
        self.readiness = Readiness(self.health, self.clock)

    def emit(self, *events: Event) -> None:
        for event in events:
            self.readiness.subscriptions()[type(event)](event)

    def reasons(self) -> list[str]:
        return self.readiness.reasons()


@pytest.fixture
def harness() -> ReadinessHarness:
    return ReadinessHarness()


def reconciled() -> Reconciled:
    return Reconciled(pass_id=uuid4(), began_at=0.0, ended_at=0.0, changed=0, links=[])


def test_a_reactor_is_ready_once_it_listens_and_has_reconciled(harness: ReadinessHarness) -> None:
    assert harness.reasons() == [NOT_LISTENING, "not reconciled yet"]
    harness.emit(Listening())
    assert harness.reasons() == ["not reconciled yet"]
    harness.emit(reconciled())
    assert harness.reasons() == []
    harness.emit(ListenerLost(reason="refused"))
    assert harness.reasons() == [NOT_LISTENING]
    harness.emit(Polling(interval_s=2.0, reason="silence"))
    assert harness.reasons() == [POLLED]


def test_an_outage_is_measured_from_the_first_failed_query_to_the_next_answer(
    harness: ReadinessHarness,
) -> None:
    harness.emit(Listening(), reconciled())
    harness.health.record_failure(statements.REPORT_PRESENCE, AWAY)
    for _ in range(10):
        harness.clock.advance(1.0)
        harness.health.record_failure(statements.REPORT_PRESENCE, AWAY)
        assert harness.reasons() == []
    harness.clock.advance(1.0)
    assert harness.reasons() == ["the database hasn't answered for 11 s: the test took it away"]

    harness.health.record_answer(statements.REPORT_PRESENCE)
    assert harness.reasons() == []
    harness.clock.advance(60.0)
    assert harness.reasons() == []


def fail_for_11_s(harness: ReadinessHarness, statement: LiteralString, error: DatabaseUnavailable) -> list[str]:
    """Return the reasons after this call has failed for 11 s, while reports of presence succeeded."""
    harness.emit(Listening(), reconciled())
    for _ in range(12):
        harness.health.record_failure(statement, error)
        harness.health.record_answer(statements.REPORT_PRESENCE)
        harness.clock.advance(1.0)
    harness.clock.advance(-1.0)
    return harness.reasons()


@pytest.mark.parametrize(
    ("statement", "error", "reasons"),
    [
        (statements.CLAIM_UPLOADS, AWAY, ["the database hasn't answered for 11 s: the test took it away"]),
        (statements.CLAIM_UPLOADS, STANDBY, ["the server takes no writes: it is a standby, for 11 s"]),
        (statements.SETTLE_UPLOADS, STANDBY, ["the server takes no writes: it is a standby, for 11 s"]),
        (statements.EXPIRE_RUNS, AWAY, ["the database hasn't answered for 11 s: the test took it away"]),
        (
            statements.CLAIM_UPLOADS,
            LOCKED,
            ["claims of uploads have failed for 11 s: canceling statement due to lock timeout"],
        ),
        (statements.REPAIR_USAGE, LOCKED, []),
        (statements.SWEEP_UPLOADS, AWAY, ["the database hasn't answered for 11 s: the test took it away"]),
    ],
)
def test_failing_claims_and_settlements_are_detected_while_presence_is_reported(
    harness: ReadinessHarness, statement: LiteralString, error: DatabaseUnavailable, reasons: list[str]
) -> None:
    assert fail_for_11_s(harness, statement, error) == reasons


def test_the_cause_comes_before_what_follows_from_it(harness: ReadinessHarness) -> None:
    for _ in range(12):
        harness.health.record_failure(statements.CLAIM_UPLOADS, STANDBY)
        harness.clock.advance(1.0)
    assert harness.reasons() == [
        "the server takes no writes: it is a standby, for 12 s",
        NOT_LISTENING,
        "not reconciled yet",
    ]


def test_a_missing_grant_makes_the_reactor_unready_at_once(harness: ReadinessHarness) -> None:
    harness.emit(Listening(), reconciled())
    harness.health.record_failure(statements.CLAIM_UPLOADS, FORBIDDEN)
    assert harness.reasons() == [str(FORBIDDEN)]


def test_a_statement_that_is_no_longer_repeated_is_forgotten(harness: ReadinessHarness) -> None:
    """After a lease is lost, nothing extends it again."""
    assert fail_for_11_s(harness, statements.EXTEND_LEASES, AWAY)
    harness.clock.advance(61.0)
    assert harness.reasons() == []


class OneAnswer:
    """A `QueryRunner` that raises its error, or returns no rows."""

    error: Exception | None = None

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        del statement, parameters
        if self.error is not None:
            raise self.error
        return []


async def test_a_refused_row_is_an_answer(harness: ReadinessHarness, recorder: Recorder) -> None:
    """Also the event that the database answers again is emitted once, when no call fails any more."""
    calls = OneAnswer()
    watched = WatchedCalls(calls, harness.health, recorder)
    harness.emit(Listening(), reconciled())
    calls.error = AWAY
    for statement in (statements.CLAIM_UPLOADS, statements.EXPIRE_RUNS):
        with pytest.raises(DatabaseUnavailable):
            await watched.call(statement)
    harness.clock.advance(11.0)
    assert harness.reasons() != []
    calls.error = DatabaseRefused("violates check", sqlstate="23514")
    with pytest.raises(DatabaseRefused):
        await watched.call(statements.CLAIM_UPLOADS)
    assert recorder.events == []
    calls.error = None
    await watched.call(statements.EXPIRE_RUNS)
    await watched.call(statements.EXPIRE_RUNS)
    assert harness.reasons() == []
    assert recorder.events == [DatabaseAnswers(after_s=11.0)]


def test_a_lost_listening_connection_does_not_mean_that_queries_fail(harness: ReadinessHarness) -> None:
    harness.emit(Listening(), reconciled(), DatabaseLost(doing="listen", reason="refused"))
    harness.clock.advance(60.0)
    assert harness.reasons() == []


async def test_wait_returns_when_an_event_makes_the_reactor_ready_or_unready(harness: ReadinessHarness) -> None:
    returned: list[bool] = []

    async def wait() -> None:
        for ready in (True, False):
            await harness.readiness.wait(ready=ready)
            returned.append(ready)

    async with create_task_group() as tasks:
        tasks.start_soon(wait)
        await idle_event()
        harness.emit(Listening())
        await idle_event()
        assert returned == []
        harness.emit(reconciled())
        await idle_event()
        assert returned == [True]
        harness.emit(ListenerLost(reason="refused"))
    assert returned == [True, False]


# with a real database


async def until(condition: Callable[[], bool]) -> None:
    with fail_after(40):
        while not condition():  # noqa: ASYNC110 - no event is emitted when the database answers
            await sleep(_POLLING_INTERVAL_S)


async def test_a_database_that_does_not_answer_makes_the_reactor_unready_but_not_unhealthy(
    app: App, server_url: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listening connection still works; only queries fail."""
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.3)
    monkeypatch.setattr(readiness, "UNANSWERED_S", 1.0)
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    async with app.running_reactor(recorder) as reactor:
        assert reactor.not_ready() == []
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(sql.SQL("alter database {} allow_connections false").format(name))
            app.conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'reactor'"
            )
            await recorder.wait_for(DatabaseLost, lambda lost: lost.doing == "report presence")
            await until(lambda: any("hasn't answered for" in reason for reason in reactor.not_ready()))
            assert await answers(reactor, "/healthz") == 200
            assert await answers(reactor, "/readyz") == 503
            conn.execute(sql.SQL("alter database {} allow_connections true").format(name))
        await until(lambda: reactor.not_ready() == [])
        assert await answers(reactor, "/readyz") == 200


async def answers(reactor: Reactor, path: str) -> int:
    return (await to_thread.run_sync(fetch, reactor.http_url + path))[0]


async def test_one_failed_query_does_not_make_the_reactor_unready(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.3)
    async with app.running_reactor(recorder) as reactor:
        reactor.emit(DatabaseLost(doing="report presence", reason="once"))
        assert reactor.not_ready() == []
        monkeypatch.setattr(readiness, "UNANSWERED_S", -1.0)
        await until(lambda: reactor.not_ready() == [])  # the next presence report makes the reactor ready
