"""Outcomes are settled in batches and kept during a database outage. An open breaker hands claimed rows back."""

import pytest
from anyio import Event, fail_after
from support.manual_clock import idle_event
from support.worker_harness import LEASE_S, WorkerHarness, opened, signals

from reactor.core.events import DatabaseLost
from reactor.core.model import Verdict
from reactor.engine import completer


async def test_claimed_rows_are_handed_back_when_the_breaker_opens() -> None:
    """If the worker kept these rows, it would send each of them to a store that is down."""
    harness = WorkerHarness(concurrency=2, per_tenant=2)
    quick = signals(400)
    async with harness.running():
        await harness.arm(quick)  # quick work raises the batch size above the concurrency
        harness.reaction.may_act = Event()
        rows = signals(100)
        await harness.arm(rows)
        claimed = [row for claim in harness.reaction.claims for row in claim if row in set(rows)]
        assert len(claimed) > 10
        harness.reaction.held_up_by = claimed[0]
        harness.reaction.may_act.set()
        await idle_event()
        begun = [row for row in harness.reaction.verdicts(Verdict.STORED) if row in set(rows)]
        assert len(begun) < 8
        assert len(harness.reaction.verdicts(Verdict.DEFERRED)) >= len(claimed) - len(begun)


async def test_an_unexpected_error_of_a_reaction_ends_the_worker() -> None:
    """A reaction must not raise. If it raises, the worker ends with the error and doesn't settle the row."""
    harness = WorkerHarness()
    rows = signals(2)
    harness.reaction.broken = {rows[0].row_id}
    with pytest.raises(ExceptionGroup) as raised:
        async with harness.running():
            await harness.arm(rows)
    assert raised.group_contains(RuntimeError, match="a bug")
    assert rows[0] not in [signal for signal, _ in harness.reaction.settled]


async def test_a_failed_settlement_keeps_the_outcomes_and_settles_later(worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.down = {"settle"}
    async with worker_harness.running():
        await worker_harness.arm(rows)
        assert (await worker_harness.recorder.wait_for(DatabaseLost)).doing == "settle rows"
        assert worker_harness.reaction.settled == []
        assert all(worker_harness.worker.is_claimed(row) for row in rows)
        await worker_harness.advance(0.5)
        assert worker_harness.reaction.settled == []

        worker_harness.reaction.down = set()
        await worker_harness.advance(0.5)
        assert sorted(worker_harness.reaction.settled) == sorted((row, Verdict.STORED) for row in rows)
        assert len(worker_harness.reaction.claims) == 1
        assert worker_harness.worker.is_idle


async def test_outcomes_are_dropped_ten_minutes_after_their_leases_ended(worker_harness: WorkerHarness) -> None:
    """After so long an outage, other reactors have taken over the rows."""
    rows = signals(2)
    worker_harness.reaction.down = {"settle", "extend"}
    async with worker_harness.running():
        await worker_harness.arm(rows)
        worker_harness.reaction.not_ours = {row.row_id for row in rows}
        await worker_harness.advance(LEASE_S + 700.0)
        worker_harness.reaction.down = set()
        await worker_harness.advance(1.0)
        assert worker_harness.reaction.settled == []
        assert not any(worker_harness.worker.is_claimed(row) for row in rows)
        assert worker_harness.worker.is_idle


async def test_outcomes_are_settled_together_once_half_of_the_rows_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completer, "_SETTLE_DELAY_S", 3600.0)
    harness = WorkerHarness(concurrency=10, per_tenant=10)
    rows = signals(10)
    harness.reaction.may_act = Event()
    harness.reaction.may_end = {row.row_id: Event() for row in rows[:5]}
    async with harness.running():
        await harness.arm(rows)
        for number, row in enumerate(rows[:5]):
            assert harness.reaction.settled == [], f"settled after only {number} of 10 attempts ended"
            harness.reaction.may_end[row.row_id].set()
            await idle_event()
        assert harness.reaction.settled == [(row, Verdict.STORED) for row in rows[:5]]
        assert harness.reaction.settlements == 1


async def test_an_outcome_is_settled_soon_although_other_attempts_take_long(worker_harness: WorkerHarness) -> None:
    quick, *slow = signals(4)
    worker_harness.reaction.may_act = Event()
    worker_harness.reaction.may_end = {quick.row_id: opened()}
    async with worker_harness.running():
        await worker_harness.arm([quick, *slow])
        with fail_after(20):
            await worker_harness.reaction.has_settled.wait()
        assert worker_harness.reaction.settled == [(quick, Verdict.STORED)]


async def test_a_worker_ends_after_the_settled_rows_are_cleaned_up(worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.may_clean_up = Event()
    async with worker_harness.running():
        await worker_harness.arm(rows)
        assert len(worker_harness.reaction.settled) == 3
        worker_harness.worker.close()
        await idle_event()
        assert worker_harness.worker.outstanding == 3
        assert not worker_harness.worker.ended.is_set()
        worker_harness.reaction.may_clean_up.set()
        await idle_event()
        assert worker_harness.worker.ended.is_set()
        assert worker_harness.reaction.cleaned_up == rows


async def test_released_rows_are_tracked_on_request(worker_harness: WorkerHarness) -> None:
    """If a sweep has read a row before the worker released it, the sweep must not schedule the row again."""
    before, during, after = signals(3)
    async with worker_harness.running():
        await worker_harness.arm([before])
        with worker_harness.worker.track_released() as released:
            await worker_harness.arm([during])
        await worker_harness.arm([after])
        assert [row in released for row in (before, during, after)] == [False, True, False]
