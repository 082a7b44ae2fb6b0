"""Refused uploads are reported, and their tenants' next uploads are settled alone."""

import math
from uuid import uuid4

from support.manual_clock import ManualClock
from support.recorder import Recorder

from reactor.core.events import UploadDied
from reactor.core.model import Outcome, Signal, Verdict
from reactor.postgres.upload_answers import Refused
from reactor.reactions.base import Attempt
from reactor.reactions.upload_refusals import UploadRefusals

STORED = Outcome(Verdict.STORED)


def signal(tenant: int) -> Signal:
    return Signal("uploads", uuid4().int, tenant)


def attempt(tenant: int) -> Attempt:
    return Attempt(signal=signal(tenant), tenant=tenant, lease_until=math.inf)


def refused(row: Signal, *, is_dead: bool = True) -> Refused:
    return Refused(row.row_id, "the books are closed", 12.5, is_dead)


def test_a_refused_attempt_is_dead_and_its_tenants_next_ones_are_settled_last() -> None:
    refusals = UploadRefusals(clock=ManualClock(), emit=Recorder())
    bad, good = attempt(1), attempt(2)
    assert refusals.suspects_last([(bad, STORED), (good, STORED)]) == ([(bad, STORED), (good, STORED)], 2)
    answers = {bad.signal.row: refused(bad.signal)}
    assert refusals.outcome(good, STORED, answers) == STORED
    dead = refusals.outcome(bad, STORED, answers)
    assert (dead.verdict, dead.code, dead.message) == (Verdict.DEAD, "DATABASE_REFUSED", "the books are closed")
    again = attempt(1)
    assert refusals.suspects_last([(again, STORED), (good, STORED)]) == ([(good, STORED), (again, STORED)], 1)


def test_an_upload_that_was_never_claimed_dies_once() -> None:
    recorder = Recorder()
    refusals = UploadRefusals(clock=ManualClock(), emit=recorder)
    row = signal(1)
    assert refusals.report(row, refused(row)) == []
    assert recorder.events_of(UploadDied) == [UploadDied(row.row_id, 12.5, "DATABASE_REFUSED", "the books are closed")]


def test_an_upload_that_cannot_be_changed_is_tried_again_at_growing_intervals() -> None:
    clock = ManualClock()
    refusals = UploadRefusals(clock=clock, emit=Recorder())
    row, delays = signal(1), []
    for _ in range(10):
        [due] = refusals.report(row, refused(row, is_dead=False))
        assert due.signal == row
        delays.append(due.due_at - clock.database_now())
    assert [round(delay) for delay in delays] == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_locked_rows_are_checked_again_together_and_soon() -> None:
    clock = ManualClock()
    refusals = UploadRefusals(clock=clock, emit=Recorder())
    rows = [signal(1), signal(2)]
    due = refusals.check_again(rows, [row.row for row in rows])
    assert [each.signal for each in due] == rows
    assert len({each.due_at for each in due}) == 1
    assert 0.019 < due[0].due_at - clock.database_now() < 0.021
    clock.advance(10.0)
    assert refusals.check_again([], [row.row for row in rows]) == []
    [again] = refusals.check_again(rows[:1], [rows[0].row])
    assert again.due_at - clock.database_now() < 0.021
