"""The API for runs: begin, heartbeat, complete, fail. A worker is refused when its run has ended or is stale."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.callers import Api
from support.rows import TRACEPARENT, Rows, rows_of

AT_ONCE = 8
WORDS = ["heartbeat_interpretation", "complete_interpretation", "fail_interpretation"]
"""The calls that a worker makes for its run."""


@pytest.fixture
def source(api: Api) -> UUID:
    return api.store(uuid4())


def age(rows: Rows, run: UUID, **columns: int) -> None:
    """Set columns of a run to times in the past. Each value is a number of seconds before now."""
    for column, seconds in columns.items():
        statement = f"update public.interpretation_runs set {column} = %s where id = %s"
        rows.conn.execute(statement.encode(), (rows.at(-seconds), run))


# begin_interpretation


def test_a_run_begins_with_its_deadline_and_is_counted(rows: Rows, api: Api, source: UUID) -> None:
    before = rows.at(0)
    answer = api.ok(
        "begin_interpretation",
        p_source_id=source,
        p_config={"model": "m"},
        p_timeout=timedelta(minutes=5),
        p_heartbeat_timeout=timedelta(seconds=1.5),
        p_traceparent=TRACEPARENT,
    )
    run = rows.run_row(UUID(answer["run_id"]))
    assert answer == {
        "ok": True,
        "run_id": str(run.id),
        "source_id": str(source),
        "started_at": answer["started_at"],
        "timeout_at": answer["timeout_at"],
        "heartbeat_timeout_s": 1.5,
        "traceparent": TRACEPARENT,
    }
    assert datetime.fromisoformat(answer["started_at"]) == run.started_at == run.heartbeat_at
    assert datetime.fromisoformat(answer["timeout_at"]) == run.timeout_at == run.started_at + timedelta(minutes=5)
    assert before <= run.started_at <= rows.at(0)
    assert (run.status, run.interpretation_config) == ("running", {"model": "m"})
    assert api.usage(run.user_id)["interpretations_used"] == 1


def test_a_run_has_ten_minutes_and_a_heartbeat_timeout_of_sixty_seconds_by_default(api: Api, source: UUID) -> None:
    answer = api.ok("begin_interpretation", p_source_id=source)
    lasts = datetime.fromisoformat(answer["timeout_at"]) - datetime.fromisoformat(answer["started_at"])
    assert (lasts, answer["heartbeat_timeout_s"]) == (timedelta(minutes=10), 60)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-03", answer["traceparent"])


def test_a_source_that_is_not_stored_is_not_interpreted(rows: Rows, api: Api) -> None:
    source = api.reserve(user := uuid4())
    for status, code in (("pending", "STORAGE_PENDING"), ("failed", "STORAGE_UPLOAD_FAILED")):
        rows.run("update public.sources set storage_status = %s", (status,))
        assert api.refused(code, "begin_interpretation", p_source_id=source) == {"source_id": str(source)}
    assert api.usage(user)["interpretations_used"] == 0


def test_a_source_has_one_running_run_at_a_time(rows: Rows, api: Api, source: UUID) -> None:
    first = api.begin(source)
    details = api.refused("INTERPRETATION_IN_PROGRESS", "begin_interpretation", p_source_id=source)
    assert details["run_id"] == str(first)
    assert datetime.fromisoformat(details["timeout_at"]) == rows.run_row(first).timeout_at
    api.ok("complete_interpretation", p_run_id=first)
    assert api.begin(source) != first
    assert api.usage(rows.source_row(source).user_id)["interpretations_used"] == 2


def test_of_many_concurrent_calls_one_begins_a_run(api: Api, source: UUID, migrated_url: str) -> None:
    ready = Barrier(AT_ONCE)

    def begin(_: int) -> str:
        with rows_of(migrated_url) as own:
            ready.wait()
            answer = Api(own).call("begin_interpretation", p_source_id=source)
            return "begun" if answer["ok"] else answer["code"]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(begin, range(AT_ONCE)))
    assert sorted(answers) == ["INTERPRETATION_IN_PROGRESS"] * (AT_ONCE - 1) + ["begun"]


def test_repeated_calls_with_one_run_id_begin_one_run(rows: Rows, api: Api, source: UUID, migrated_url: str) -> None:
    run, ready = uuid4(), Barrier(AT_ONCE)
    first = api.ok("begin_interpretation", p_source_id=source, p_run_id=run)

    def begin(_: int) -> dict[str, Any]:
        with rows_of(migrated_url) as own:
            ready.wait()
            return Api(own).ok("begin_interpretation", p_source_id=source, p_run_id=run)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(begin, range(AT_ONCE))) == [first] * AT_ONCE
    assert api.usage(rows.source_row(source).user_id)["interpretations_used"] == 1


def test_the_first_calls_with_one_run_id_may_be_concurrent(rows: Rows, api: Api, migrated_url: str) -> None:
    user, ready = uuid4(), Barrier(AT_ONCE)
    sources, runs = [api.store(user) for _ in range(10)], [uuid4() for _ in range(10)]

    def begin(_: int) -> list[UUID]:
        with rows_of(migrated_url) as own:
            begun = []
            for source, run in zip(sources, runs, strict=True):
                ready.wait()
                begun.append(Api(own).begin(source, p_run_id=run))
            return begun

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(begin, range(AT_ONCE))) == [runs] * AT_ONCE
    assert api.usage(user)["interpretations_used"] == 10


def test_an_id_that_another_run_has_is_refused(api: Api, source: UUID) -> None:
    theirs = api.begin(api.store(uuid4()))
    ended = api.begin(source)
    api.ok("complete_interpretation", p_run_id=ended)
    for run in (theirs, ended):
        again = {"p_source_id": source, "p_run_id": run}
        assert api.refused("INVALID_ARGUMENT", "begin_interpretation", **again) == {"argument": "p_run_id"}


@pytest.mark.parametrize(
    ("ages", "code"),
    [({"timeout_at": 1}, "INTERPRETATION_TIMEOUT"), ({"heartbeat_at": 61}, "INTERPRETATION_HEARTBEAT_LOST")],
)
def test_a_run_whose_deadline_has_passed_blocks_no_new_run_without_a_reactor(
    rows: Rows, api: Api, source: UUID, ages: dict[str, int], code: str
) -> None:
    stale = api.begin(source)
    age(rows, stale, **ages)
    api.begin(source)
    row = rows.run_row(stale)
    assert (row.status, row.error_code) == ("failed", code)
    assert row.completed_at is not None


def test_a_month_that_is_used_up_is_refused_with_the_figures_and_counted(rows: Rows, api: Api) -> None:
    api.limit(user := uuid4(), runs=2)
    for _ in range(2):
        api.ok("complete_interpretation", p_run_id=api.begin(api.store(user)))
    source = api.store(user)
    details = api.refused("INTERPRETATION_QUOTA_EXCEEDED", "begin_interpretation", p_source_id=source)
    resets_at = api.usage(user)["resets_at"]
    assert details == {"plan": "free", "limit": 2, "used": 2, "resets_at": resets_at}
    assert datetime.fromisoformat(resets_at) > rows.at(0)
    counted = rows.one("select quota, plan, count from reactor.quota_rejection")
    assert tuple(counted) == ("interpretations", "free", 1)
    assert rows.all("select from public.interpretation_runs where status = 'running'") == []


# heartbeat_interpretation, complete_interpretation, fail_interpretation


def test_a_heartbeat_moves_the_deadline(rows: Rows, api: Api, source: UUID) -> None:
    run = api.begin(source)
    age(rows, run, heartbeat_at=30)
    assert api.ok("heartbeat_interpretation", p_run_id=run) == {"ok": True}
    assert rows.run_row(run).heartbeat_at > rows.at(-15)


def test_completing_a_run_twice_equals_completing_it_once(rows: Rows, api: Api, source: UUID) -> None:
    run = api.begin(source)
    done = {"ok": True, "run_id": str(run), "status": "completed"}
    assert api.ok("complete_interpretation", p_run_id=run) == done
    row = rows.run_row(run)
    assert row.completed_at is not None
    assert api.ok("complete_interpretation", p_run_id=run) == done
    assert rows.run_row(run) == row
    for word in ("heartbeat_interpretation", "fail_interpretation"):
        assert api.refused("NOT_ALLOWED", word, p_run_id=run) == {"run_id": str(run), "status": "completed"}
    assert rows.run_row(run) == row


def test_failing_a_run_twice_equals_failing_it_once_and_keeps_its_code(rows: Rows, api: Api, source: UUID) -> None:
    run = api.begin(source)
    failure = {"p_run_id": run, "p_code": "MODEL_OVERLOADED", "p_message": "x" * 3000}
    done = {"ok": True, "run_id": str(run), "status": "failed", "code": "MODEL_OVERLOADED"}
    assert api.ok("fail_interpretation", **failure) == done
    row = rows.run_row(run)
    assert (row.error_code, row.error_message) == ("MODEL_OVERLOADED", "x" * 2000)
    assert api.ok("fail_interpretation", **failure) == done
    for word in WORDS:
        details = api.refused("INTERPRETATION_FAILED", word, p_run_id=run)
        assert details == {"run_id": str(run), "status": "failed", "error_code": "MODEL_OVERLOADED"}
    assert rows.run_row(run) == row


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("reactor_is_up", [True, False])
def test_a_worker_paused_past_its_deadline_is_refused_and_can_complete_nothing(
    rows: Rows, api: Api, source: UUID, word: str, reactor_is_up: bool
) -> None:
    run = api.begin(source)
    age(rows, run, timeout_at=1)
    if reactor_is_up:
        assert rows.expire([run])[run].code == "INTERPRETATION_TIMEOUT"
    details = api.refused("INTERPRETATION_TIMEOUT", word, p_run_id=run)
    assert details == {"run_id": str(run), "status": "failed"}
    row = rows.run_row(run)
    assert (row.status, row.error_code) == ("failed", "INTERPRETATION_TIMEOUT")
    for other in WORDS:
        api.refused("INTERPRETATION_TIMEOUT", other, p_run_id=run)
    assert rows.run_row(run) == row


@pytest.mark.parametrize("word", WORDS)
def test_a_worker_without_heartbeats_for_too_long_is_refused_with_heartbeat_lost(
    rows: Rows, api: Api, source: UUID, word: str
) -> None:
    run = api.begin(source, p_heartbeat_timeout=timedelta(seconds=20))
    age(rows, run, heartbeat_at=21)
    details = api.refused("INTERPRETATION_HEARTBEAT_LOST", word, p_run_id=run)
    assert details == {"run_id": str(run), "status": "failed"}


@pytest.mark.parametrize("word", WORDS)
def test_a_call_while_the_run_is_being_failed_is_refused_with_the_reason(
    rows: Rows, api: Api, source: UUID, word: str, migrated_url: str
) -> None:
    run = api.begin(source)
    age(rows, run, timeout_at=1)
    with rows_of(migrated_url) as reactor, ThreadPoolExecutor(1) as pool, rows_of(migrated_url) as own:
        with reactor.conn.transaction():
            reactor.expire([run])
            answer = pool.submit(Api(own).refused, "INTERPRETATION_TIMEOUT", word, p_run_id=run)
            rows.wait_for_lock(own.conn)
        assert answer.result() == {"run_id": str(run), "status": "failed"}


def test_a_heartbeat_concurrent_with_another_of_the_same_run_is_accepted(
    rows: Rows, api: Api, source: UUID, migrated_url: str
) -> None:
    """The second call reads the old deadline, waits for the first heartbeat's commit, and reads the new deadline."""
    run = api.begin(source)
    age(rows, run, heartbeat_at=61)
    with rows_of(migrated_url) as other, ThreadPoolExecutor(1) as pool, rows_of(migrated_url) as own:
        with other.conn.transaction():
            age(other, run, heartbeat_at=0)
            answer = pool.submit(Api(own).ok, "heartbeat_interpretation", p_run_id=run)
            rows.wait_for_lock(own.conn)
        assert answer.result() == {"ok": True}


def test_a_pending_run_has_no_worker(rows: Rows, api: Api, source: UUID) -> None:
    run = rows.start_run(rows.source_row(source).user_id, source=source, status="pending")
    for word in WORDS:
        assert api.refused("NOT_ALLOWED", word, p_run_id=run) == {"run_id": str(run), "status": "pending"}


# heartbeat_interpretations


def array(*runs: UUID | None) -> str:
    """Return the literal of an array of ids."""
    return "{" + ",".join(str(run or "null") for run in runs) + "}"


def test_one_call_moves_the_deadline_of_each_run_and_refuses_those_that_ended(rows: Rows, api: Api) -> None:
    runs = [api.begin(api.store(uuid4())) for _ in range(5)]
    alive, overdue, completed, failed, unknown = *runs[:4], uuid4()
    for run in runs:
        age(rows, run, heartbeat_at=30)
    age(rows, overdue, timeout_at=1)
    api.ok("complete_interpretation", p_run_id=completed)
    api.ok("fail_interpretation", p_run_id=failed)

    answer = api.ok("heartbeat_interpretations", p_run_ids=array(alive, alive, overdue, completed, failed, unknown))

    assert {run: refusal["code"] for run, refusal in answer["refused"].items()} == {
        str(overdue): "INTERPRETATION_TIMEOUT",
        str(completed): "NOT_ALLOWED",
        str(failed): "INTERPRETATION_FAILED",
        str(unknown): "NOT_FOUND",
    }
    assert answer["busy"] == []
    assert rows.run_row(alive).heartbeat_at > rows.at(-15)
    assert rows.run_row(overdue).status == "failed"
    assert rows.run_row(runs[4]).heartbeat_at < rows.at(-15)
    for run, refusal in answer["refused"].items():
        assert refusal == api.call("heartbeat_interpretation", p_run_id=UUID(run))


@pytest.mark.parametrize("is_overdue", [False, True])
def test_a_locked_run_is_busy_and_delays_no_other_run(
    rows: Rows, api: Api, migrated_url: str, is_overdue: bool
) -> None:
    locked, other = (api.begin(api.store(uuid4())) for _ in range(2))
    if is_overdue:
        age(rows, locked, timeout_at=1)
    age(rows, other, heartbeat_at=30)
    with rows_of(migrated_url) as holder, holder.conn.transaction():
        holder.all("select from public.interpretation_runs where id = %s for update", (locked,))
        rows.run("set lock_timeout = '1ms'")
        answer = api.ok("heartbeat_interpretations", p_run_ids=array(locked, other))
    assert (answer["busy"], answer["refused"]) == ([str(locked)], {})
    assert rows.run_row(other).heartbeat_at > rows.at(-15)
    answer = api.ok("heartbeat_interpretations", p_run_ids=array(locked))
    assert (answer["busy"], list(answer["refused"])) == ([], [str(locked)] if is_overdue else [])


@pytest.mark.parametrize("ids", [None, "{}", array(None), array(*[UUID(int=1)] * 1001)], ids=["null", "0", "", "1001"])
def test_a_call_without_ids_or_with_too_many_is_refused(api: Api, ids: str | None) -> None:
    details = api.refused("INVALID_ARGUMENT", "heartbeat_interpretations", p_run_ids=ids)
    assert details == {"argument": "p_run_ids"}
