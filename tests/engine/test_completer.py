"""Outcomes are settled in batches and kept during a database outage. An open breaker hands claimed rows back."""

import pytest
from anyio import Event, fail_after
from support.manual_clock import idle_event
from support.worker_harness import LEASE_S, WorkerHarness, opened, signals

from reactor.core.errors import DatabaseRefused, DatabaseUnavailable
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


# settlements that other sessions hold up


async def test_a_busy_outcome_is_settled_soon_after_the_lock_is_released(worker_harness: WorkerHarness) -> None:
    reaction = worker_harness.reaction
    [row] = signals(1)
    reaction.locked = {row.row_id}
    async with worker_harness.running():
        await worker_harness.arm([row])
        for _ in range(100):
            await worker_harness.advance(0.05)
        assert 25 <= len(reaction.busy) <= 100  # backoff: every 120 ms in the end
        assert worker_harness.worker.is_claimed(row)
        reaction.locked = set()
        await worker_harness.advance(0.12)
        assert reaction.settled == [(row, Verdict.STORED)]
        assert worker_harness.worker.is_idle
        assert reaction.cleaned_up == [row]


async def test_a_busy_outcome_holds_up_no_other_user(worker_harness: WorkerHarness) -> None:
    reaction = worker_harness.reaction
    [locked], others = signals(1, tenant=1), signals(3, tenant=2)
    reaction.locked = {locked.row_id}
    async with worker_harness.running():
        await worker_harness.arm([locked, *others])
        assert {signal for signal, _ in reaction.settled} == set(others)


async def test_more_busy_outcomes_than_one_batch_are_all_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completer, "_SETTLE_DELAY_S", 0.0)
    harness = WorkerHarness(concurrency=2_000, per_tenant=2_000)
    rows = signals(completer.BATCH + 100)
    harness.reaction.locked = {row.row_id for row in rows}
    async with harness.running():
        await harness.arm(rows)
        await harness.advance(0.02)
        harness.reaction.locked = set()
        for _ in range(20):
            await harness.advance(0.1)
        assert len(harness.reaction.settled) == len(rows)


async def test_a_batch_that_fails_because_of_its_rows_is_split_and_the_others_are_settled(
    worker_harness: WorkerHarness,
) -> None:
    """A trigger of the app may sleep until the time limit, or raise what the database's functions don't catch."""
    reaction = worker_harness.reaction
    slow, refused, *others = rows = [signals(1, tenant=tenant)[0] for tenant in range(4)]
    reaction.fails_settlement = {
        slow.row_id: DatabaseUnavailable("canceling statement due to statement timeout", is_busy=True),
        refused.row_id: DatabaseRefused("no"),
    }
    async with worker_harness.running():
        await worker_harness.arm(rows)
        for _ in range(10):
            await worker_harness.advance(0.1)
        assert {signal for signal, _ in reaction.settled} == set(others)
        reaction.fails_settlement = {}
        for _ in range(10):
            await worker_harness.advance(0.1)
        assert {signal for signal, _ in reaction.settled} == set(rows)
        assert worker_harness.worker.is_idle


async def test_a_worker_that_is_closed_leaves_busy_outcomes_to_their_leases(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    worker_harness.reaction.locked = {row.row_id}
    async with worker_harness.running():
        await worker_harness.arm([row])
        worker_harness.worker.close()
        for _ in range(10):
            await worker_harness.advance(0.1)
        assert worker_harness.worker.ended.is_set()
        assert worker_harness.reaction.settled == []


async def test_a_lock_that_is_released_during_the_shutdown_costs_no_attempt(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    worker_harness.reaction.locked = {row.row_id}
    async with worker_harness.running():
        await worker_harness.arm([row])
        worker_harness.worker.close()
        await worker_harness.advance(0.2)
        assert not worker_harness.worker.ended.is_set()
        worker_harness.reaction.locked = set()
        await worker_harness.advance(0.12)
        assert worker_harness.reaction.settled == [(row, Verdict.STORED)]
        assert worker_harness.worker.ended.is_set()
