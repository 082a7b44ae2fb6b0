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


async def test_the_lease_of_an_attempt_that_has_ended_is_not_extended(worker_harness: WorkerHarness) -> None:
    """The settlement compares the lease token, so an outcome that waits to be settled needs no extended lease."""
    [row] = signals(1)
    worker_harness.reaction.may_settle = Event()
    async with worker_harness.running():
        await worker_harness.arm([row])
        await worker_harness.advance(LEASE_S / 3)
        assert worker_harness.reaction.extended == []
        worker_harness.reaction.may_settle.set()
        await idle_event()
        assert worker_harness.reaction.settled == [(row, Verdict.STORED)]


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
