"""Every stale run is failed. A run with a live heartbeat and time left is never failed."""

import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from uuid import UUID, uuid4

import pytest
from support.rows import Rows, rows_of

from reactor.postgres import statements

EXTREMES = ["infinity", "-infinity", "294276-12-31 23:59:59+00", "4714-11-24 00:00:00+00 BC", "1970-01-01", None]
TORTURE_S = 2.5
PATIENCE = timedelta(milliseconds=25)


def test_a_run_past_its_time_limit_is_failed_also_with_a_live_heartbeat(rows: Rows) -> None:
    run = rows.start_run(timeout_at=rows.at(-3), heartbeat_at=rows.at(0), traceparent="00-a-b-01")
    expired = rows.expire([run])[run]
    row = rows.run_row(run)
    assert (expired.code, expired.due_at, expired.traceparent) == ("INTERPRETATION_TIMEOUT", None, "00-a-b-01")
    assert expired.late_s == pytest.approx(3, abs=1)
    assert (row.status, row.error_code) == ("failed", "INTERPRETATION_TIMEOUT")
    assert (row.completed_at - row.timeout_at).total_seconds() == pytest.approx(expired.late_s, abs=0.001)


def test_a_run_whose_heartbeat_stopped_is_failed(rows: Rows) -> None:
    run = rows.start_run(timeout_at=rows.at(600), heartbeat_at=rows.at(-70))
    expired = rows.expire([run])[run]
    row = rows.run_row(run)
    assert expired.code == "INTERPRETATION_HEARTBEAT_LOST"
    assert expired.late_s == pytest.approx(10, abs=1)
    assert (row.status, row.error_code) == ("failed", "INTERPRETATION_HEARTBEAT_LOST")
    assert row.completed_at is not None


def test_a_run_past_both_is_failed_with_the_code_of_a_timeout(rows: Rows) -> None:
    run = rows.start_run(timeout_at=rows.at(-5), heartbeat_at=rows.at(-100))
    assert rows.expire([run])[run].code == "INTERPRETATION_TIMEOUT"


def test_a_run_with_a_live_heartbeat_and_time_left_is_returned_with_its_deadline(rows: Rows) -> None:
    by_beat = rows.start_run(timeout_at=rows.at(600), heartbeat_at=rows.at(-20))
    by_limit = rows.start_run(timeout_at=rows.at(10), heartbeat_at=rows.at(0))
    before = [rows.run_row(by_beat), rows.run_row(by_limit)]
    answers = rows.expire([by_beat, by_limit])
    assert [rows.run_row(by_beat), rows.run_row(by_limit)] == before
    assert answers[by_beat].due_at == pytest.approx(before[0].heartbeat_at.timestamp() + 60)
    assert answers[by_limit].due_at == pytest.approx(before[1].timeout_at.timestamp())
    assert answers[by_beat].code is answers[by_limit].code is None


@pytest.mark.parametrize(("own_s", "default_s", "is_stale"), [(10, 60, True), (100, 60, False), (None, 10, True)])
def test_a_runs_own_heartbeat_timeout_replaces_the_default(
    rows: Rows, own_s: int | None, default_s: int, is_stale: bool
) -> None:
    patience = None if own_s is None else timedelta(seconds=own_s)
    run = rows.start_run(heartbeat_at=rows.at(-70 if own_s == 100 else -20), heartbeat_timeout=patience)
    assert (rows.expire([run], heartbeat_timeout_s=default_s)[run].code is not None) == is_stale


@pytest.mark.parametrize("status", ["pending", "completed", "failed"])
def test_a_run_that_is_not_running_is_neither_changed_nor_returned(rows: Rows, status: str) -> None:
    run = rows.start_run(status=status, timeout_at=rows.at(-5), heartbeat_at=rows.at(-500))
    before = rows.run_row(run)
    assert rows.expire([run, uuid4()]) == {}
    assert rows.run_row(run) == before


def test_a_runs_start_is_its_first_heartbeat(rows: Rows) -> None:
    """Because of this, the reactor finds a run whose worker dies before it sends a heartbeat."""
    at_once, later = rows.start_run(), rows.start_run(status="pending")
    rows.run("update public.interpretation_runs set status = 'running' where id = %s", (later,))
    for run in (at_once, later):
        row = rows.run_row(run)
        assert row.heartbeat_at == row.started_at
        assert rows.expire([run])[run].due_at == pytest.approx(row.started_at.timestamp() + 60)


def test_only_the_time_limit_applies_to_runs_from_before_the_migration(rows: Rows) -> None:
    with rows.conn.transaction():
        rows.run("alter table public.interpretation_runs disable trigger user")
        endless = rows.start_run(started_at=rows.at(-9000))
        limited = rows.start_run(started_at=rows.at(-9000), timeout_at=rows.at(50))
        over = rows.start_run(started_at=rows.at(-9000), timeout_at=rows.at(-50))
        rows.run("alter table public.interpretation_runs enable trigger user")
    answers = rows.expire([endless, limited, over])
    assert set(answers) == {limited, over}
    assert answers[over].code == "INTERPRETATION_TIMEOUT"
    assert answers[limited].due_at == pytest.approx(rows.run_row(limited).timeout_at.timestamp())
    assert rows.run_row(endless).status == "running"


def test_a_run_whose_row_is_locked_is_skipped_and_returned_with_a_time_soon(rows: Rows, migrated_url: str) -> None:
    locked, free = (rows.start_run(heartbeat_at=rows.at(-70)) for _ in range(2))
    with rows_of(migrated_url) as other, other.conn.transaction():
        other.run("select from public.interpretation_runs where id = %s for update", (locked,))
        answers = rows.expire([locked, free])
    assert answers[free].code == "INTERPRETATION_HEARTBEAT_LOST"
    assert answers[locked].code is None
    assert answers[locked].due_at == pytest.approx(rows.at(0.5).timestamp(), abs=0.4)
    assert rows.expire([locked])[locked].code == "INTERPRETATION_HEARTBEAT_LOST"


def test_a_call_slightly_before_the_deadline_returns_the_deadline(rows: Rows) -> None:
    """The reactor estimates the database's clock, so a call may be slightly early. That must not delay the expiry."""
    limit = rows.at(0.3)
    run = rows.start_run(timeout_at=limit)
    answer = rows.expire([run])[run]
    assert answer.code or answer.due_at == pytest.approx(limit.timestamp(), abs=0.006)


def test_a_run_that_has_failed_is_not_returned_again(rows: Rows) -> None:
    run = rows.start_run(timeout_at=rows.at(-1))
    assert rows.expire([run, run])[run].code is not None
    once = rows.run_row(run)
    assert rows.expire([run]) == {}
    assert rows.run_row(run) == once


def test_no_deadline_keeps_the_other_runs_from_being_failed_and_swept(rows: Rows) -> None:
    rows.lift_quotas()
    source = rows.source(user := uuid4())
    runs = [
        rows.start_run(user, source=source, timeout_at=limit, heartbeat_at=beat, heartbeat_timeout=patience)
        for limit in EXTREMES
        for beat in EXTREMES
        for patience in (None, "1 second", "178000000 years")
    ]
    stale = rows.start_run(user, source=source, timeout_at=rows.at(-1))
    swept = rows.all(statements.SWEEP_RUNS, (timedelta(minutes=15), timedelta(minutes=1), 1000))
    assert stale in {row.id for row in swept}
    answers = rows.expire([*runs, stale])
    assert answers[stale].code == "INTERPRETATION_TIMEOUT"
    times = [row.due_at for row in [*swept, *answers.values()]] + [row.late_s for row in answers.values()]
    assert all(moment is None or math.isfinite(moment) for moment in times)
    assert rows.one("select reactor.status('1 minute') as status").status["runs"]["stale"] == 0


def test_the_sweep_lists_runs_due_within_the_horizon_the_earliest_first(rows: Rows) -> None:
    first, second = rows.start_run(timeout_at=rows.at(-5)), rows.start_run(timeout_at=rows.at(20))
    third = rows.start_run()
    rows.start_run(timeout_at=rows.at(3600), heartbeat_timeout=timedelta(hours=2))
    rows.start_run(status="completed", timeout_at=rows.at(-5))
    arguments = (timedelta(minutes=15), timedelta(minutes=1))
    assert [row.id for row in rows.all(statements.SWEEP_RUNS, (*arguments, 10))] == [first, second, third]
    assert [row.id for row in rows.all(statements.SWEEP_RUNS, (*arguments, 2))] == [first, second]


def test_while_heartbeats_and_expiries_race_only_and_all_stale_runs_are_failed(rows: Rows, migrated_url: str) -> None:
    """Heartbeats are about as frequent as deadlines. A trigger records how much time each failed run had left."""
    rows.run("create table public.verdict (run_id uuid, left_s float8)")
    rows.run(
        "create function public.write_down() returns trigger language plpgsql as $$ begin"
        "    insert into public.verdict values (old.id, extract(epoch from"
        "        old.heartbeat_at + old.heartbeat_timeout - clock_timestamp()));"
        "    return new; end $$"
    )
    rows.run(
        "create trigger write_down before update on public.interpretation_runs for each row"
        " when (old.status = 'running' and new.status = 'failed') execute function public.write_down()"
    )
    source = rows.source(user := uuid4())
    alive, left = (
        [rows.start_run(user, source=source, heartbeat_timeout=PATIENCE) for _ in range(40)] for _ in range(2)
    )
    stop = Event()

    def beat(seed: int) -> int:
        beats, order = 0, random.Random(seed)  # seeded, so that a failure can be repeated
        with rows_of(migrated_url) as own:
            while not stop.is_set():
                # a failed run is started again, so that the race continues
                beats += own.run(
                    "update public.interpretation_runs set heartbeat_at = clock_timestamp(), status = 'running'"
                    " where id = any(%s)",
                    ([order.choice(alive)],),
                )
        return beats

    def expire(_: int) -> int:
        count = 0
        with rows_of(migrated_url) as own:
            while not stop.is_set():
                count += sum(row.code is not None for row in own.expire([*alive, *left]).values())
        return count

    with ThreadPoolExecutor(6) as pool:
        beats = [pool.submit(beat, seed) for seed in range(3)]
        expiries = [pool.submit(expire, number) for number in range(3)]
        stop.wait(TORTURE_S)
        stop.set()
        beaten, expired = sum(b.result() for b in beats), sum(e.result() for e in expiries)

    assert min(beaten, expired) > 60, "too few heartbeats or expiries for a race"
    assert rows.all("select * from public.verdict where left_s > 0") == []
    assert rows.one("select count(*) as written from public.verdict").written == expired
    assert {rows.run_row(run).error_code for run in left} == {"INTERPRETATION_HEARTBEAT_LOST"}
    deadline = time.monotonic() + 10
    waiting: list[UUID] = alive
    while waiting and time.monotonic() < deadline:  # without heartbeats, each run becomes stale
        waiting = [run for run, row in rows.expire(waiting).items() if row.code is None]
    assert waiting == []
