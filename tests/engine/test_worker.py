"""The worker claims in natural batches within its caps, and loses no claimed row whatever fails."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest
from anyio import Event, create_task_group
from anyio.lowlevel import checkpoint
from support.manual_clock import ManualClock, idle_event
from support.recorder import Recorder
from support.task_executor import TaskExecutor

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import DatabaseLost, LeaseLost
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.engine.worker import AttemptWorker
from reactor.postgres.notification import Hint
from reactor.reactions.base import Attempt, AttemptReaction, ClaimResult, Sweep

LEASE_S = 30.0
STORED = Outcome(verdict=Verdict.STORED)
DEFERRED = Outcome(verdict=Verdict.DEFERRED)
DOWN = DatabaseUnavailable("the test took it away")


class Rows(AttemptReaction[Attempt]):
    """A reaction on rows in memory. The test can delay each of its calls or make it fail."""

    name = "rows"
    channel = "rows"

    def __init__(self, clock: ManualClock, *, concurrency: int, per_tenant: int) -> None:
        self.clock = clock
        self.executor = TaskExecutor(self._act, concurrency, per_tenant=per_tenant, now=clock.now)
        self.claims: list[list[Signal]] = []
        self.settled: list[tuple[Signal, Verdict]] = []
        self.extended: list[set[UUID]] = []
        self.acting: Counter[int] = Counter()
        self.most_acting: Counter[int] = Counter()
        self.most_in_all = 0
        self.cancelled: list[Signal] = []
        self.down: set[str] = set()
        self.taken_over: set[UUID] = set()
        self.not_ours: set[UUID] = set()
        self.broken: set[UUID] = set()
        self.fails: Counter[UUID] = Counter()
        self.held_up_by: Signal | None = None
        """The row whose outcome makes the reaction hold up all others, as when a breaker opens."""
        self.is_down = False
        self.refused: set[UUID] = set()
        """Claimed rows that are not admitted."""
        self.round_trip = 0
        """Number of event loop iterations that a claim takes."""
        self.may_claim = opened()
        self.may_act = opened()
        self.may_settle = opened()

    def due_at(self, hint: Hint) -> float | None:
        raise NotImplementedError

    async def sweep(self, horizon_s: float) -> Sweep:
        raise NotImplementedError

    async def prepare(self) -> None:
        self._check("prepare")

    async def claim(self, signals: Sequence[Signal]) -> ClaimResult[Attempt]:
        self.claims.append(list(signals))
        await self.may_claim.wait()
        for _ in range(self.round_trip):
            await checkpoint()
        self._check("claim")
        lease_until = self.clock.now() + LEASE_S
        return ClaimResult(
            attempts=[
                Attempt(signal=signal, tenant=signal.tenant, lease_until=lease_until)
                for signal in signals
                if signal.row_id not in self.not_ours | self.taken_over
            ]
        )

    @property
    def is_held_up(self) -> bool:
        return self.is_down

    def admit(self, attempts: Sequence[Attempt]) -> Sequence[Attempt]:
        return [attempt for attempt in attempts if attempt.signal.row_id not in self.refused]

    async def _act(self, attempt: Attempt) -> Outcome:
        signal = attempt.signal
        self.acting[signal.tenant] += 1
        self.most_acting |= self.acting
        self.most_in_all = max(self.most_in_all, self.acting.total())
        done = False
        try:
            await self.may_act.wait()
            done = True
        finally:
            self.acting[signal.tenant] -= 1
            if not done:
                self.cancelled.append(signal)
        if self.fails[signal.row_id] > 0:
            self.fails[signal.row_id] -= 1
            return Outcome(verdict=Verdict.RETRY, delay_s=4.0, code="STORAGE_UNAVAILABLE")
        return STORED

    def outcomes(self, attempts: Sequence[Attempt]) -> Sequence[Outcome]:
        return [self._outcome(attempt) for attempt in attempts]

    def _outcome(self, attempt: Attempt) -> Outcome:
        if attempt.signal.row_id in self.broken:
            raise RuntimeError("a bug")
        self.is_down |= attempt.signal == self.held_up_by
        outcome: Outcome = attempt.result
        return outcome

    def hand_back(self, attempt: Attempt) -> Outcome:  # noqa: ARG002  # the outcome is the same for all
        return DEFERRED

    async def settle(self, ended: Sequence[tuple[Attempt, Outcome]]) -> Sequence[Due]:
        await self.may_settle.wait()
        self._check("settle")
        self.settled += [(attempt.signal, outcome.verdict) for attempt, outcome in ended]
        return [
            Due(attempt.signal, self.clock.database_now() + outcome.delay_s)
            for attempt, outcome in ended
            if outcome.verdict is Verdict.RETRY
        ]

    async def extend(self, held: Sequence[Attempt]) -> set[UUID]:
        self._check("extend")
        ids = {attempt.signal.row_id for attempt in held}
        self.extended.append(ids)
        return ids - self.taken_over

    def _check(self, call: str) -> None:
        if call in self.down:
            raise DOWN

    def verdicts(self, verdict: Verdict) -> list[Signal]:
        return [signal for signal, settled in self.settled if settled is verdict]


def opened() -> Event:
    event = Event()
    event.set()
    return event


class Stage:
    """One pipeline on a manual clock."""

    def __init__(self, *, concurrency: int = 4, per_tenant: int = 4) -> None:
        self.clock = ManualClock()
        self.recorder = Recorder()
        self.rows = Rows(self.clock, concurrency=concurrency, per_tenant=per_tenant)
        self.ready = ReadyQueue()
        requests = ReconcileRequests()
        self.schedule = Schedule(self.clock, {"rows": self.ready}, requests, horizon_s=900.0, emit=self.recorder)
        self.idle = asyncio.Event()
        self.worker = AttemptWorker(
            self.rows,
            self.ready,
            self.schedule,
            requests,
            clock=self.clock,
            emit=self.recorder,
            concurrency=concurrency,
            per_tenant=per_tenant,
            lease_s=LEASE_S,
            idle=self.idle,
        )

    async def arm(self, signals: Sequence[Signal]) -> None:
        self.schedule.arm(Due(signal, self.clock.database_now()) for signal in signals)
        await idle_event()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await idle_event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with create_task_group() as tasks:
            tasks.start_soon(self.schedule.run)
            tasks.start_soon(self.worker.run)
            await idle_event()
            yield
            tasks.cancel_scope.cancel()


def signals(count: int, tenant: int = 1) -> list[Signal]:
    return [Signal("rows", uuid4().int, tenant) for _ in range(count)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


# claiming


async def test_a_row_is_claimed_acted_on_and_settled(stage: Stage) -> None:
    [row] = signals(1)
    async with stage.running():
        await stage.arm([row])
        assert stage.rows.settled == [(row, Verdict.STORED)]
        assert stage.worker.outstanding == 0
        assert stage.worker.is_idle
        assert stage.idle.is_set()
        assert stage.worker.spent == 1


async def test_slow_work_is_not_claimed_in_advance(stage: Stage) -> None:
    """Another reactor may have free threads; and with long attempts the pace of the work is known too badly."""
    slow, stage.rows.may_claim = Event(), Event()
    stage.rows.may_act = slow
    async with stage.running():
        await stage.arm(signals(100))
        await stage.advance(0.01)
        stage.rows.may_claim.set()
        await idle_event()
        await stage.advance(1.0)
        stage.rows.may_act = Event()
        slow.set()
        await idle_event()
        assert len(stage.rows.settled) == 4
        assert stage.worker.outstanding == 4


async def test_rows_that_become_due_during_a_claim_are_claimed_together() -> None:
    stage = Stage(concurrency=100, per_tenant=100)
    first, then = signals(1), signals(60)
    stage.rows.may_claim = Event()
    async with stage.running():
        await stage.arm(first)
        for row in then:
            await stage.arm([row])
        stage.rows.may_claim.set()
        await idle_event()
        assert [set(claim) for claim in stage.rows.claims] == [set(first), set(then)]


async def test_quick_work_is_claimed_in_large_batches() -> None:
    """The batch size follows the pace of the work, far beyond the concurrency."""
    stage = Stage(concurrency=4, per_tenant=4)
    rows = signals(3_000)
    stage.rows.round_trip = 500
    async with stage.running():
        await stage.arm(rows)
        assert len(stage.rows.verdicts(Verdict.STORED)) == len(rows)
        assert max(len(claim) for claim in stage.rows.claims) > 100
        assert len(stage.rows.claims) < 100
        assert stage.rows.most_in_all <= 4


async def test_slow_work_is_claimed_as_threads_become_free() -> None:
    stage = Stage(concurrency=4, per_tenant=4)
    stage.rows.may_act = Event()
    async with stage.running():
        await stage.arm(signals(1_000))
        assert sum(len(claim) for claim in stage.rows.claims) == 4


async def test_a_failed_claim_is_repeated(stage: Stage) -> None:
    rows = signals(3)
    stage.rows.down = {"claim"}
    async with stage.running():
        await stage.arm(rows)
        lost = await stage.recorder.wait_for(DatabaseLost)
        assert lost.doing == "claim rows"
        assert stage.worker.outstanding == 3

        stage.rows.down = set()
        await stage.advance(0.5)
        assert set(stage.rows.verdicts(Verdict.STORED)) == set(rows)


async def test_a_failed_preparation_does_not_prevent_a_claim(stage: Stage) -> None:
    [row] = signals(1)
    stage.rows.down = {"prepare"}
    async with stage.running():
        assert (await stage.recorder.wait_for(DatabaseLost)).doing == "prepare rows"
        await stage.arm([row])
        assert stage.rows.verdicts(Verdict.STORED) == [row]


async def test_a_backlog_sends_few_claims_to_a_database_that_is_down(stage: Stage) -> None:
    """One claim per half second, however many rows are ready."""
    stage.rows.down = {"claim"}
    async with stage.running():
        await stage.arm(signals(1_000))
        for _ in range(10):
            await stage.advance(0.5)
        assert len(stage.rows.claims) == 11


async def test_rows_that_others_have_claimed_are_dropped(stage: Stage) -> None:
    ours, theirs = signals(2), signals(2)
    stage.rows.not_ours = {signal.row_id for signal in theirs}
    async with stage.running():
        await stage.arm([*ours, *theirs])
        assert set(stage.rows.verdicts(Verdict.STORED)) == set(ours)
        assert stage.worker.is_idle

        more = signals(20)
        await stage.arm(more)  # their capacity is free again
        assert len(stage.rows.settled) == 22


async def test_rows_that_others_have_stored_are_dropped_in_large_batches() -> None:
    """Each of several reactors has all due rows, so rows that others stored must not cost many small claims."""
    stage = Stage(concurrency=4, per_tenant=4)
    theirs, ours = signals(3_000), signals(10)
    stage.rows.not_ours = {signal.row_id for signal in theirs}
    async with stage.running():
        await stage.arm([*theirs, *ours])
        assert set(stage.rows.verdicts(Verdict.STORED)) == set(ours)
        assert len(stage.rows.claims) < 20


async def test_enough_claimed_work_is_not_interrupted_by_a_small_claim() -> None:
    stage = Stage(concurrency=4, per_tenant=4)
    async with stage.running():
        await stage.arm(signals(3_000))
        assert len(stage.rows.settled) == 3_000
        sizes = [len(claim) for claim in stage.rows.claims]
        assert len(sizes) < 3_000 / 8


async def test_a_row_to_retry_is_claimed_again_when_it_is_due(stage: Stage) -> None:
    [row] = signals(1)
    stage.rows.fails[row.row_id] = 1
    async with stage.running():
        await stage.arm([row])
        assert stage.rows.settled == [(row, Verdict.RETRY)]
        await stage.advance(3.999)
        assert len(stage.rows.claims) == 1
        await stage.advance(0.002)
        assert stage.rows.verdicts(Verdict.STORED) == [row]


# acting


async def test_attempts_in_flight_never_exceed_the_caps_in_total_and_per_tenant() -> None:
    stage = Stage(concurrency=6, per_tenant=2)
    rows = [row for tenant in range(1, 6) for row in signals(40, tenant)]
    async with stage.running():
        for number in range(0, len(rows), 7):
            stage.rows.may_act = Event()
            await stage.arm(rows[number : number + 7])
            assert stage.rows.acting.total() <= 6
            stage.rows.may_act.set()
            await idle_event()
        assert len(stage.rows.verdicts(Verdict.STORED)) == len(rows)
    assert stage.rows.most_in_all <= 6
    assert max(stage.rows.most_acting.values()) <= 2


async def test_a_flood_of_one_tenant_does_not_delay_another() -> None:
    stage = Stage(concurrency=4, per_tenant=2)
    flood, [other] = signals(2_000, tenant=1), signals(1, tenant=2)
    stage.rows.may_act = Event()
    async with stage.running():
        await stage.arm(flood)
        assert stage.rows.acting[1] == 2
        await stage.arm([other])
        assert stage.rows.acting[2] == 1
        stage.rows.may_act.set()
        await idle_event()
        assert len(stage.rows.settled) == 2_001


async def test_a_single_row_is_settled_soon_amid_a_flood() -> None:
    """A row that becomes due during a flood of quick work is settled after a few more rows, not after the flood."""
    stage = Stage(concurrency=4, per_tenant=2)
    flood, [other] = signals(5_000, tenant=1), signals(1, tenant=2)
    async with stage.running():
        stage.rows.may_claim = Event()
        await stage.arm(flood)
        await stage.arm([other])
        stage.rows.may_claim.set()
        await idle_event()
        order = [signal for signal, _ in stage.rows.settled]
        assert len(order) == 5_001
        assert order.index(other) < 50


async def test_claimed_rows_are_handed_back_when_the_breaker_opens() -> None:
    """Rows that were claimed but not started must not go one by one to a store that is down."""
    stage = Stage(concurrency=2, per_tenant=2)
    quick = signals(400)
    async with stage.running():
        await stage.arm(quick)  # the window has grown: more rows are claimed than can be in flight
        stage.rows.may_act = Event()
        rows = signals(100)
        await stage.arm(rows)
        claimed = [row for claim in stage.rows.claims for row in claim if row in set(rows)]
        assert len(claimed) > 10
        stage.rows.held_up_by = claimed[0]
        stage.rows.may_act.set()
        await idle_event()
        begun = [row for row in stage.rows.verdicts(Verdict.STORED) if row in set(rows)]
        assert len(begun) < 8
        assert len(stage.rows.verdicts(Verdict.DEFERRED)) >= len(claimed) - len(begun)


async def test_a_row_that_is_not_admitted_is_handed_back(stage: Stage) -> None:
    """The store goes down during the claim."""
    first, second, third = signals(3)
    stage.rows.refused = {second.row_id, third.row_id}
    async with stage.running():
        await stage.arm([first, second, third])
        assert stage.rows.verdicts(Verdict.STORED) == [first]
        assert sorted(stage.rows.verdicts(Verdict.DEFERRED)) == sorted([second, third])
        assert stage.worker.is_idle


async def test_an_unexpected_error_of_a_reaction_ends_the_pipeline() -> None:
    """A reaction must not raise. If it does, the pipeline ends with the error instead of losing the row silently."""
    stage = Stage()
    rows = signals(2)
    stage.rows.broken = {rows[0].row_id}
    with pytest.raises(ExceptionGroup) as raised:
        async with stage.running():
            await stage.arm(rows)
    assert raised.group_contains(RuntimeError, match="a bug")
    assert rows[0] not in [signal for signal, _ in stage.rows.settled]


# settling


async def test_a_failed_settlement_keeps_the_outcomes_and_settles_later(stage: Stage) -> None:
    rows = signals(3)
    stage.rows.down = {"settle"}
    async with stage.running():
        await stage.arm(rows)
        assert (await stage.recorder.wait_for(DatabaseLost)).doing == "settle rows"
        assert stage.rows.settled == []
        assert all(stage.worker.is_claimed(row) for row in rows)
        await stage.advance(0.5)
        assert stage.rows.settled == []

        stage.rows.down = set()
        await stage.advance(0.5)
        assert sorted(stage.rows.settled) == sorted((row, Verdict.STORED) for row in rows)
        assert len(stage.rows.claims) == 1
        assert stage.worker.is_idle


async def test_outcomes_are_dropped_after_their_lease_has_expired(stage: Stage) -> None:
    """The database was down for so long that other reactors may have taken the rows over."""
    rows = signals(2)
    stage.rows.down = {"settle", "extend"}
    async with stage.running():
        await stage.arm(rows)
        stage.rows.not_ours = {row.row_id for row in rows}
        await stage.advance(LEASE_S + 700.0)
        stage.rows.down = set()
        await stage.advance(1.0)
        assert stage.rows.settled == []
        assert not any(stage.worker.is_claimed(row) for row in rows)
        assert stage.worker.is_idle


async def test_claims_stop_while_outcomes_cannot_be_settled(stage: Stage) -> None:
    """Otherwise outcomes would accumulate without bound while the database is down."""
    rows = signals(5_000)
    stage.rows.may_settle = Event()
    async with stage.running():
        await stage.arm(rows)
        assert stage.worker.outstanding <= 2_500
        stage.rows.may_settle.set()
        await idle_event()
        assert len(stage.rows.settled) == len(rows)


# leases


async def test_leases_are_extended_until_the_attempt_ends(stage: Stage) -> None:
    [row] = signals(1)
    stage.rows.may_act = Event()
    async with stage.running():
        await stage.arm([row])
        for _ in range(6):
            await stage.advance(LEASE_S / 3)
        assert stage.rows.extended == [{row.row_id}] * 6
        stage.rows.may_act.set()
        await idle_event()
        assert stage.rows.verdicts(Verdict.STORED) == [row]


async def test_a_row_is_not_claimed_again_before_its_outcome_is_settled(stage: Stage) -> None:
    """After an outage longer than the lease, the row is due again before its outcome has been settled."""
    [row] = signals(1)
    stage.rows.down = {"settle"}
    async with stage.running():
        await stage.arm([row])
        await stage.arm([row])
        assert len(stage.rows.claims) == 1
        stage.rows.down = set()
        await stage.advance(0.5)
        assert stage.rows.settled == [(row, Verdict.STORED)]
        assert stage.worker.is_idle
        await stage.arm([row])  # its capacity is free again
        assert len(stage.rows.claims) == 2


async def test_a_lost_lease_cancels_the_attempt_and_settles_nothing(stage: Stage) -> None:
    lost, kept = signals(2)
    stage.rows.may_act = Event()
    async with stage.running():
        await stage.arm([lost, kept])
        stage.rows.taken_over = stage.rows.not_ours = {lost.row_id}
        await stage.advance(LEASE_S / 3)
        assert (await stage.recorder.wait_for(LeaseLost)).upload_id == lost.row_id
        assert stage.rows.cancelled == [lost]
        assert not stage.worker.is_claimed(lost)
        await idle_event()
        assert stage.rows.claims[1:] == [[lost]]  # only another claim shows the row's state
        stage.rows.may_act.set()
        await idle_event()
        assert stage.rows.settled == [(kept, Verdict.STORED)]


async def test_leases_are_given_up_when_the_database_stays_down(stage: Stage) -> None:
    """The lease can't be extended, so after its expiry another reactor may have the row."""
    [row] = signals(1)
    stage.rows.may_act = Event()
    stage.rows.down = {"extend"}
    async with stage.running():
        await stage.arm([row])
        await stage.advance(LEASE_S / 3)
        await stage.advance(LEASE_S / 3)
        assert stage.rows.cancelled == []
        stage.rows.not_ours = {row.row_id}
        await stage.advance(LEASE_S / 3)
        assert stage.rows.cancelled == [row]
        assert stage.rows.settled == []
        assert stage.worker.is_idle


async def test_a_row_in_flight_is_not_claimed_again(stage: Stage) -> None:
    """Its lease may have expired during the attempt, and then a claim would return it even to this reactor."""
    row, other = signals(2)
    stage.rows.may_act = Event()
    async with stage.running():
        await stage.arm([row])
        await stage.arm([row, other])
        assert stage.rows.claims == [[row], [other]]
        stage.rows.may_act.set()
        await idle_event()
        assert stage.rows.settled == [(row, Verdict.STORED), (other, Verdict.STORED)]


# ending


async def test_close_hands_back_rows_not_started_and_lets_attempts_finish() -> None:
    stage = Stage(concurrency=2, per_tenant=2)
    quick = signals(400)
    async with stage.running():
        stage.rows.may_settle = Event()
        await stage.arm(quick)  # the window has grown: more rows are claimed than can be in flight
        stage.rows.may_act = Event()
        stage.rows.may_settle.set()
        rows = signals(100)
        await stage.arm(rows)
        acting = stage.rows.acting.total()
        claimed = {row for claim in stage.rows.claims for row in claim} & set(rows)
        assert acting == 2
        assert len(claimed) > acting

        stage.worker.close()
        await idle_event()
        assert len(stage.rows.verdicts(Verdict.DEFERRED)) == len(claimed) - acting
        assert not stage.worker.ended.is_set()

        stage.rows.may_act.set()
        await idle_event()
        assert stage.worker.ended.is_set()
        settled = [signal for signal, _ in stage.rows.settled]
        assert set(settled) == set(quick) | claimed
        assert len(settled) == len(set(settled))


async def test_abort_hands_back_rows_in_flight(stage: Stage) -> None:
    rows = signals(3)
    stage.rows.may_act = Event()
    async with stage.running():
        await stage.arm(rows)
        stage.worker.close()
        stage.worker.abort()
        await idle_event()
        assert stage.worker.ended.is_set()
        assert set(stage.rows.cancelled) == set(rows)
        assert set(stage.rows.verdicts(Verdict.DEFERRED)) == set(rows)
        assert stage.worker.spent == 0


async def test_rows_claimed_after_close_are_handed_back(stage: Stage) -> None:
    rows = signals(3)
    stage.rows.may_claim = Event()
    async with stage.running():
        await stage.arm(rows)
        stage.worker.close()
        await idle_event()
        assert not stage.worker.ended.is_set()
        stage.rows.may_claim.set()
        await idle_event()
        assert stage.worker.ended.is_set()
        assert set(stage.rows.verdicts(Verdict.DEFERRED)) == set(rows)
        assert stage.rows.most_in_all == 0


async def test_closing_while_the_database_is_away_waits_for_it(stage: Stage) -> None:
    [row] = signals(1)
    stage.rows.down = {"settle"}
    async with stage.running():
        await stage.arm([row])
        stage.worker.close()
        await stage.advance(0.5)
        assert not stage.worker.ended.is_set()
        stage.rows.down = set()
        await stage.advance(0.5)
        assert stage.worker.ended.is_set()
        assert stage.rows.settled == [(row, Verdict.STORED)]


@pytest.mark.parametrize("fault", ["claim", "settle", "extend"])
async def test_nothing_is_lost_or_settled_twice_during_failures_of_the_database(fault: str) -> None:
    stage = Stage(concurrency=8, per_tenant=3)
    rows = [row for tenant in range(1, 8) for row in signals(30, tenant)]
    for row in rows[::5]:
        stage.rows.fails[row.row_id] = 2
    async with stage.running():
        for number in range(0, len(rows), 10):
            stage.rows.down = {fault} if number % 20 else set()
            await stage.arm(rows[number : number + 10])
            await stage.advance(0.125)
        stage.rows.down = set()
        for _ in range(60):
            await stage.advance(0.25)
        stored = stage.rows.verdicts(Verdict.STORED)
        assert set(stored) == set(rows)
        assert len(stored) == len(rows)
        assert stage.worker.is_idle
