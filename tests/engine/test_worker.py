"""The worker claims ready rows in batches within its caps. It claims no row twice, and an outage loses no row."""

import pytest
from anyio import Event
from support.manual_clock import idle_event
from support.worker_harness import DOWN, WorkerHarness, signals

from reactor.core.events import DatabaseLost, LeaseLost, RowsAccepted, RowsRefused
from reactor.core.model import Verdict
from reactor.postgres import statements

# claiming


async def test_a_row_is_claimed_acted_on_and_settled(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    async with worker_harness.running():
        await worker_harness.arm([row])
        assert worker_harness.reaction.settled == [(row, Verdict.STORED)]
        assert worker_harness.worker.outstanding == 0
        assert worker_harness.worker.is_idle
        assert worker_harness.idle.is_set()
        assert worker_harness.worker.spent == 1


async def test_slow_work_is_not_claimed_in_advance(worker_harness: WorkerHarness) -> None:
    """Another reactor may have free threads, so a reactor must not claim rows that would wait for its own threads."""
    slow, worker_harness.reaction.may_claim = Event(), Event()
    worker_harness.reaction.may_act = slow
    async with worker_harness.running():
        await worker_harness.arm(signals(100))
        await worker_harness.advance(0.01)
        worker_harness.reaction.may_claim.set()
        await idle_event()
        await worker_harness.advance(1.0)
        worker_harness.reaction.may_act = Event()
        slow.set()
        await idle_event()
        assert len(worker_harness.reaction.settled) == 4
        assert worker_harness.worker.outstanding == 4


async def test_rows_that_become_due_during_a_claim_are_claimed_together() -> None:
    harness = WorkerHarness(concurrency=100, per_tenant=100)
    first, then = signals(1), signals(60)
    harness.reaction.may_claim = Event()
    async with harness.running():
        await harness.arm(first)
        for row in then:
            await harness.arm([row])
        harness.reaction.may_claim.set()
        await idle_event()
        assert [set(claim) for claim in harness.reaction.claims] == [set(first), set(then)]


async def test_quick_work_is_claimed_in_large_batches() -> None:
    """The batch size depends on how fast attempts end, and may be much larger than the concurrency."""
    harness = WorkerHarness(concurrency=4, per_tenant=4)
    rows = signals(3_000)
    harness.reaction.round_trip = 500
    async with harness.running():
        await harness.arm(rows)
        assert len(harness.reaction.verdicts(Verdict.STORED)) == len(rows)
        assert max(len(claim) for claim in harness.reaction.claims) > 100
        assert len(harness.reaction.claims) < 100
        assert harness.reaction.most_in_all <= 4


async def test_slow_work_is_claimed_as_threads_become_free() -> None:
    harness = WorkerHarness(concurrency=4, per_tenant=4)
    harness.reaction.may_act = Event()
    async with harness.running():
        await harness.arm(signals(1_000))
        assert sum(len(claim) for claim in harness.reaction.claims) == 4


async def test_a_failed_claim_is_repeated(worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.down = {"claim"}
    async with worker_harness.running():
        await worker_harness.arm(rows)
        lost = await worker_harness.recorder.wait_for(DatabaseLost)
        assert lost.doing == "claim rows"
        assert worker_harness.worker.outstanding == 3

        worker_harness.reaction.down = set()
        await worker_harness.advance(0.5)
        assert set(worker_harness.reaction.verdicts(Verdict.STORED)) == set(rows)


async def test_a_failed_preparation_does_not_prevent_a_claim(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    worker_harness.reaction.down = {"prepare"}
    async with worker_harness.running():
        assert (await worker_harness.recorder.wait_for(DatabaseLost)).doing == "prepare rows"
        await worker_harness.arm([row])
        assert worker_harness.reaction.verdicts(Verdict.STORED) == [row]


async def test_a_backlog_sends_few_claims_to_a_database_that_is_down(worker_harness: WorkerHarness) -> None:
    """The worker sends a claim after 0.5 s, 1 s, 2 s, then every 4 s, whatever the number of ready rows."""
    worker_harness.reaction.down = {"claim"}
    async with worker_harness.running():
        await worker_harness.arm(signals(1_000))
        sent_at = []
        for half_seconds in range(1, 40):
            before = len(worker_harness.reaction.claims)
            await worker_harness.advance(0.5)
            if len(worker_harness.reaction.claims) > before:
                sent_at.append(half_seconds / 2)
        assert sent_at == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5]


async def test_a_claim_is_repeated_as_soon_as_the_database_answers_another_call(worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.down = {"claim"}
    health = worker_harness.health
    async with worker_harness.running():
        await worker_harness.arm(rows)
        for _ in range(10):
            health.record_failure(statements.REPORT_PRESENCE, DOWN)
            await worker_harness.advance(0.5)
        worker_harness.reaction.down = set()
        claims = len(worker_harness.reaction.claims)
        health.record_answer(statements.REPORT_PRESENCE)
        await idle_event()
        assert len(worker_harness.reaction.claims) == claims + 1
        assert set(worker_harness.reaction.verdicts(Verdict.STORED)) == set(rows)


async def test_a_refused_row_is_set_aside_and_the_others_are_claimed(worker_harness: WorkerHarness) -> None:
    """It is claimed alone after 30 s, 60 s, and so on; when it is accepted, it is forgotten."""
    rows = signals(33)
    worker_harness.reaction.refuses_claim = {rows[17].row_id}
    async with worker_harness.running():
        await worker_harness.arm(rows)
        refused = await worker_harness.recorder.wait_for(RowsRefused)
        assert (refused.row_ids, refused.times, refused.set_aside) == ([rows[17].row_id], 1, 1)
        assert refused.retry_in_s == 30.0
        assert set(worker_harness.reaction.verdicts(Verdict.STORED)) == set(rows) - {rows[17]}

        claims = len(worker_harness.reaction.claims)
        await worker_harness.arm([rows[17]])  # a sweep or a notification doesn't make it due earlier
        assert len(worker_harness.reaction.claims) == claims
        await worker_harness.advance(30.0)
        refused = await worker_harness.recorder.wait_for(RowsRefused)
        assert (refused.times, refused.retry_in_s) == (2, 60.0)
        worker_harness.reaction.refuses_claim = set()
        await worker_harness.advance(60.0)
        accepted = await worker_harness.recorder.wait_for(RowsAccepted)
        assert (accepted.rows, accepted.set_aside) == (1, 0)
        assert rows[17] in worker_harness.reaction.verdicts(Verdict.STORED)


async def test_refusals_during_an_outage_lose_no_row(worker_harness: WorkerHarness) -> None:
    """Half of a batch is claimed, then the database goes away: only the other half is claimed again."""
    rows = signals(8)
    worker_harness.reaction.refuses_claim = {rows[0].row_id}
    worker_harness.reaction.down_after_claims = 4
    async with worker_harness.running():
        await worker_harness.arm(rows)
        await worker_harness.recorder.wait_for(DatabaseLost)
        await worker_harness.advance(0.5)
        assert set(worker_harness.reaction.verdicts(Verdict.STORED)) == set(rows[1:])
        assert len(worker_harness.reaction.settled) == 7
        await worker_harness.recorder.wait_for(RowsRefused)


async def test_a_lease_that_the_database_refuses_to_extend_affects_no_other(worker_harness: WorkerHarness) -> None:
    rows = signals(4)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm(rows)
        worker_harness.reaction.refuses_extend = {rows[2].row_id}
        for _ in range(6):
            await worker_harness.advance(10.0)
        lost = worker_harness.recorder.events_of(LeaseLost)
        assert {event.upload_id for event in lost} == {rows[2].row_id}


async def test_rows_that_others_have_claimed_are_dropped(worker_harness: WorkerHarness) -> None:
    ours, theirs = signals(2), signals(2)
    worker_harness.reaction.not_ours = {signal.row_id for signal in theirs}
    async with worker_harness.running():
        await worker_harness.arm([*ours, *theirs])
        assert set(worker_harness.reaction.verdicts(Verdict.STORED)) == set(ours)
        assert worker_harness.worker.is_idle

        more = signals(20)
        await worker_harness.arm(more)  # the dropped rows occupy no capacity
        assert len(worker_harness.reaction.settled) == 22


async def test_rows_that_others_have_stored_are_dropped_in_large_batches() -> None:
    """Every reactor schedules all due rows. With few claims, it must drop the rows that others have stored."""
    harness = WorkerHarness(concurrency=4, per_tenant=4)
    theirs, ours = signals(3_000), signals(10)
    harness.reaction.not_ours = {signal.row_id for signal in theirs}
    async with harness.running():
        await harness.arm([*theirs, *ours])
        assert set(harness.reaction.verdicts(Verdict.STORED)) == set(ours)
        assert len(harness.reaction.claims) < 20


async def test_claims_of_a_backlog_stay_large() -> None:
    harness = WorkerHarness(concurrency=4, per_tenant=4)
    async with harness.running():
        await harness.arm(signals(3_000))
        assert len(harness.reaction.settled) == 3_000
        sizes = [len(claim) for claim in harness.reaction.claims]
        assert len(sizes) < 3_000 / 8


async def test_a_row_to_retry_is_claimed_again_when_it_is_due(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    worker_harness.reaction.fails[row.row_id] = 1
    async with worker_harness.running():
        await worker_harness.arm([row])
        assert worker_harness.reaction.settled == [(row, Verdict.RETRY)]
        await worker_harness.advance(3.999)
        assert len(worker_harness.reaction.claims) == 1
        await worker_harness.advance(0.002)
        assert worker_harness.reaction.verdicts(Verdict.STORED) == [row]


# attempts


async def test_attempts_in_flight_never_exceed_the_caps_in_total_and_per_tenant() -> None:
    harness = WorkerHarness(concurrency=6, per_tenant=2)
    rows = [row for tenant in range(1, 6) for row in signals(40, tenant)]
    async with harness.running():
        for number in range(0, len(rows), 7):
            harness.reaction.may_act = Event()
            await harness.arm(rows[number : number + 7])
            assert harness.reaction.acting.total() <= 6
            harness.reaction.may_act.set()
            await idle_event()
        assert len(harness.reaction.verdicts(Verdict.STORED)) == len(rows)
    assert harness.reaction.most_in_all <= 6
    assert max(harness.reaction.most_acting.values()) <= 2


async def test_a_flood_of_one_tenant_does_not_delay_another() -> None:
    harness = WorkerHarness(concurrency=4, per_tenant=2)
    flood, [other] = signals(2_000, tenant=1), signals(1, tenant=2)
    harness.reaction.may_act = Event()
    async with harness.running():
        await harness.arm(flood)
        assert harness.reaction.acting[1] == 2
        await harness.arm([other])
        assert harness.reaction.acting[2] == 1
        harness.reaction.may_act.set()
        await idle_event()
        assert len(harness.reaction.settled) == 2_001


async def test_a_single_row_is_settled_soon_amid_a_flood() -> None:
    """The row becomes due after the flood, but is settled after only a few rows of the flood."""
    harness = WorkerHarness(concurrency=4, per_tenant=2)
    flood, [other] = signals(5_000, tenant=1), signals(1, tenant=2)
    async with harness.running():
        harness.reaction.may_claim = Event()
        await harness.arm(flood)
        await harness.arm([other])
        harness.reaction.may_claim.set()
        await idle_event()
        order = [signal for signal, _ in harness.reaction.settled]
        assert len(order) == 5_001
        assert order.index(other) < 50


async def test_a_row_that_is_not_admitted_is_handed_back(worker_harness: WorkerHarness) -> None:
    """Rows are not admitted if the circuit breaker opens during the claim."""
    first, second, third = signals(3)
    worker_harness.reaction.refused = {second.row_id, third.row_id}
    async with worker_harness.running():
        await worker_harness.arm([first, second, third])
        assert worker_harness.reaction.verdicts(Verdict.STORED) == [first]
        assert sorted(worker_harness.reaction.verdicts(Verdict.DEFERRED)) == sorted([second, third])
        assert worker_harness.worker.is_idle


# settling


async def test_claims_stop_while_outcomes_cannot_be_settled(worker_harness: WorkerHarness) -> None:
    """If claims continued, the number of unsettled outcomes would grow without a limit while the database is down."""
    rows = signals(5_000)
    worker_harness.reaction.may_settle = Event()
    async with worker_harness.running():
        await worker_harness.arm(rows)
        assert worker_harness.worker.outstanding <= 2_500
        worker_harness.reaction.may_settle.set()
        await idle_event()
        assert len(worker_harness.reaction.settled) == len(rows)


# claimed rows that become due again


async def test_a_row_is_not_claimed_again_before_its_outcome_is_settled(worker_harness: WorkerHarness) -> None:
    """If an outage lasts longer than the lease, the row is due again before its outcome is settled."""
    [row] = signals(1)
    worker_harness.reaction.down = {"settle"}
    async with worker_harness.running():
        await worker_harness.arm([row])
        await worker_harness.arm([row])
        assert len(worker_harness.reaction.claims) == 1
        worker_harness.reaction.down = set()
        await worker_harness.advance(0.5)
        assert worker_harness.reaction.settled == [(row, Verdict.STORED)]
        assert worker_harness.worker.is_idle
        await worker_harness.arm([row])  # the settled row occupies no capacity
        assert len(worker_harness.reaction.claims) == 2


async def test_a_row_in_flight_is_not_claimed_again(worker_harness: WorkerHarness) -> None:
    """If the lease expires during the attempt, the database lets any reactor claim the row, this one included."""
    row, other = signals(2)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([row])
        await worker_harness.arm([row, other])
        assert worker_harness.reaction.claims == [[row], [other]]
        worker_harness.reaction.may_act.set()
        await idle_event()
        assert worker_harness.reaction.settled == [(row, Verdict.STORED), (other, Verdict.STORED)]


async def test_hints_of_a_row_in_flight_do_not_count_against_its_tenant(worker_harness: WorkerHarness) -> None:
    row, *others = signals(4)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm([row])
        for _ in range(10):
            await worker_harness.arm([row])
        await worker_harness.arm(others)
        assert worker_harness.reaction.claims == [[row], others]


# closing


async def test_close_hands_back_rows_not_started_and_lets_attempts_finish() -> None:
    harness = WorkerHarness(concurrency=2, per_tenant=2)
    quick = signals(400)
    async with harness.running():
        harness.reaction.may_settle = Event()
        await harness.arm(quick)  # quick work raises the batch size above the concurrency
        harness.reaction.may_act = Event()
        harness.reaction.may_settle.set()
        rows = signals(100)
        await harness.arm(rows)
        acting = harness.reaction.acting.total()
        claimed = {row for claim in harness.reaction.claims for row in claim} & set(rows)
        assert acting == 2
        assert len(claimed) > acting

        harness.worker.close()
        await idle_event()
        assert len(harness.reaction.verdicts(Verdict.DEFERRED)) == len(claimed) - acting
        assert not harness.worker.ended.is_set()

        harness.reaction.may_act.set()
        await idle_event()
        assert harness.worker.ended.is_set()
        settled = [signal for signal, _ in harness.reaction.settled]
        assert set(settled) == set(quick) | claimed
        assert len(settled) == len(set(settled))


async def test_abort_hands_back_rows_in_flight(worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.may_act = Event()
    async with worker_harness.running():
        await worker_harness.arm(rows)
        worker_harness.worker.close()
        worker_harness.worker.abort()
        await idle_event()
        assert worker_harness.worker.ended.is_set()
        assert set(worker_harness.reaction.cancelled) == set(rows)
        assert set(worker_harness.reaction.verdicts(Verdict.DEFERRED)) == set(rows)
        assert worker_harness.worker.spent == 0


async def test_rows_claimed_after_close_are_handed_back(worker_harness: WorkerHarness) -> None:
    rows = signals(3)
    worker_harness.reaction.may_claim = Event()
    async with worker_harness.running():
        await worker_harness.arm(rows)
        worker_harness.worker.close()
        await idle_event()
        assert not worker_harness.worker.ended.is_set()
        worker_harness.reaction.may_claim.set()
        await idle_event()
        assert worker_harness.worker.ended.is_set()
        assert set(worker_harness.reaction.verdicts(Verdict.DEFERRED)) == set(rows)
        assert worker_harness.reaction.most_in_all == 0


async def test_closing_during_an_outage_waits_until_the_outcomes_are_settled(worker_harness: WorkerHarness) -> None:
    [row] = signals(1)
    worker_harness.reaction.down = {"settle"}
    async with worker_harness.running():
        await worker_harness.arm([row])
        worker_harness.worker.close()
        await worker_harness.advance(0.5)
        assert not worker_harness.worker.ended.is_set()
        worker_harness.reaction.down = set()
        await worker_harness.advance(0.5)
        assert worker_harness.worker.ended.is_set()
        assert worker_harness.reaction.settled == [(row, Verdict.STORED)]


@pytest.mark.parametrize("fault", ["claim", "settle", "extend"])
async def test_nothing_is_lost_or_settled_twice_during_failures_of_the_database(fault: str) -> None:
    harness = WorkerHarness(concurrency=8, per_tenant=3)
    rows = [row for tenant in range(1, 8) for row in signals(30, tenant)]
    for row in rows[::5]:
        harness.reaction.fails[row.row_id] = 2
    async with harness.running():
        for number in range(0, len(rows), 10):
            harness.reaction.down = {fault} if number % 20 else set()
            await harness.arm(rows[number : number + 10])
            await harness.advance(0.125)
        harness.reaction.down = set()
        for _ in range(60):
            await harness.advance(0.25)
        stored = harness.reaction.verdicts(Verdict.STORED)
        assert set(stored) == set(rows)
        assert len(stored) == len(rows)
        assert harness.worker.is_idle
