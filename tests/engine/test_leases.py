"""Leases are extended while attempts run; an attempt that has lost its lease is abandoned and settles nothing."""

from anyio import Event
from support.manual_clock import idle_event
from support.worker_harness import LEASE_S, WorkerHarness, signals

from reactor.core.events import LeaseLost
from reactor.core.model import Verdict


async def test_leases_are_extended_until_the_attempt_ends(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([row])
        for _ in range(6):
            await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.extended == [{row.row_id}] * 6
        worker_harness.reaction.may_act.set()
        await idle_event()
        assert worker_harness.reaction.verdicts(Verdict.STORED) == [row]


async def test_a_lost_lease_cancels_the_attempt_and_settles_nothing(worker_harness: WorkerHarness) -> None:
    lost, kept = signals(2)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([lost, kept])
        worker_harness.reaction.taken_over = worker_harness.reaction.not_ours = {lost.row_id}
        await worker_harness.advance(LEASE_S / 3)
        assert (await worker_harness.recorder.wait_for(LeaseLost)).upload_id == lost.row_id
        assert worker_harness.reaction.cancelled == [lost]
        attempts = worker_harness.reaction.attempts
        assert attempts[lost.row_id].lease_until < attempts[kept.row_id].lease_until
        assert not worker_harness.worker.is_claimed(lost)
        await idle_event()
        assert worker_harness.reaction.claims[1:] == [
            [lost]
        ]  # the worker tries to claim the lost row again, and gets no lease
        worker_harness.reaction.may_act.set()
        await idle_event()
        assert worker_harness.reaction.settled == [(kept, Verdict.STORED)]


async def test_leases_are_given_up_when_the_database_stays_down(worker_harness: WorkerHarness) -> None:
    """The worker can't extend the lease. After the lease has expired, another reactor may claim the row."""
    [row] = signals(1)
    worker_harness.reaction.may_act = Event()
    worker_harness.reaction.down = {"extend"}
    async with worker_harness.running():
        await worker_harness.arm([row])
        await worker_harness.advance(LEASE_S / 3)
        await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.cancelled == []
        worker_harness.reaction.not_ours = {row.row_id}
        await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.cancelled == [row]
        assert worker_harness.reaction.settled == []
        assert worker_harness.worker.is_idle


async def test_a_lease_is_counted_from_before_its_extension_was_sent(worker_harness: WorkerHarness) -> None:
    """A new lease counts from the time when the worker sent the extension, so the worker never overestimates it."""
    [row] = signals(1)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([row])
        for _ in range(3):
            await worker_harness.advance(LEASE_S / 3)
        worker_harness.reaction.down = {"extend"}
        await worker_harness.advance(LEASE_S / 3)
        await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.cancelled == []
        worker_harness.reaction.not_ours = {row.row_id}
        await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.cancelled == [row]


async def test_the_lease_of_an_outcome_is_extended_until_it_is_settled(worker_harness: WorkerHarness) -> None:
    """Otherwise another reactor would store the upload again, while another session's lock holds up the settlement."""
    [row] = signals(1)
    worker_harness.reaction.locked = {row.row_id}
    async with worker_harness.running():
        await worker_harness.arm([row])
        worker_harness.reaction.locked = set()
        worker_harness.reaction.may_settle = Event()
        await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.extended == [{row.row_id}]
        worker_harness.reaction.may_settle.set()
        await idle_event()
        assert worker_harness.reaction.settled == [(row, Verdict.STORED)]
        await worker_harness.advance(LEASE_S)
        assert worker_harness.reaction.extended == [{row.row_id}]


async def test_a_locked_row_keeps_its_attempt_and_is_extended_again_soon(worker_harness: WorkerHarness) -> None:
    """Its lease can't be extended, but no other reactor can claim the row either."""
    locked, free = signals(2)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([locked, free])
        worker_harness.reaction.locked = {locked.row_id}
        await worker_harness.advance(LEASE_S / 3)
        for _ in range(40):
            await worker_harness.advance(1.0)
        attempts = worker_harness.reaction.attempts
        assert attempts[locked.row_id].lease_until < worker_harness.clock.now() < attempts[free.row_id].lease_until
        assert worker_harness.reaction.cancelled == []
        assert worker_harness.reaction.extended.count({locked.row_id}) >= 30
        worker_harness.reaction.locked = set()
        await worker_harness.advance(1.0)
        assert attempts[locked.row_id].lease_until > worker_harness.clock.now() + LEASE_S / 2
        worker_harness.reaction.may_act.set()
        await idle_event()
        assert len(worker_harness.reaction.verdicts(Verdict.STORED)) == 2


async def test_a_row_that_was_taken_over_after_its_lock_is_cut_short_within_a_second(
    worker_harness: WorkerHarness,
) -> None:
    [row] = signals(1)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([row])
        worker_harness.reaction.locked = {row.row_id}
        for _ in range(4):
            await worker_harness.advance(LEASE_S / 3)
        worker_harness.reaction.locked, worker_harness.reaction.taken_over = set(), {row.row_id}
        worker_harness.reaction.not_ours = {row.row_id}
        await worker_harness.advance(1.0)
        assert worker_harness.reaction.cancelled == [row]
        assert worker_harness.reaction.settled == []


async def test_an_attempt_is_cut_short_at_its_deadline_and_not_before() -> None:
    harness = WorkerHarness(attempt_timeout_s=5.0)
    first, second = signals(2)
    harness.reaction.may_act = Event()
    async with harness.running():
        await harness.arm([first])
        await harness.advance(2.0)
        await harness.arm([second])
        await harness.advance(2.999)
        assert harness.reaction.cancelled == []
        await harness.advance(0.001)
        assert harness.reaction.cancelled == [first]
        await harness.advance(2.0)
        assert harness.reaction.cancelled == [first, second]
        assert harness.reaction.verdicts(Verdict.DEFERRED) == [first, second]
