"""A worker with its completer and leases, on a manual clock and on rows in memory that the test controls."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

from anyio import Event, create_task_group
from anyio.lowlevel import checkpoint

from reactor.core.errors import DatabaseFailure, DatabaseRefused, DatabaseUnavailable
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.engine.worker import AttemptWorker
from reactor.postgres.call_health import CallHealth
from reactor.postgres.notification import Hint
from reactor.postgres.upload_answers import Extension
from reactor.reactions.base import Attempt, AttemptReaction, ClaimResult, SettleResult, Sweep
from support.manual_clock import ManualClock, idle_event
from support.recorder import Recorder
from support.task_executor import TaskExecutor

LEASE_S = 30.0
STORED = Outcome(verdict=Verdict.STORED)
DEFERRED = Outcome(verdict=Verdict.DEFERRED)
DOWN = DatabaseUnavailable("the test took it away")


class InMemoryRows(AttemptReaction[Attempt]):
    """A reaction on rows in memory. The test can delay each call or make it fail."""

    name = "rows"
    channel = "rows"

    def __init__(self, clock: ManualClock, *, concurrency: int, per_tenant: int, attempt_timeout_s: float) -> None:
        self.clock = clock
        self.attempt_timeout_s = attempt_timeout_s
        self.executor = TaskExecutor(self._act, concurrency, per_tenant=per_tenant, now=clock.now)
        self.claims: list[list[Signal]] = []
        self.attempts: dict[UUID, Attempt] = {}
        """The last attempt of each row."""
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
        """After the outcome of this row, no attempt is admitted, as after a circuit breaker has opened."""
        self.is_down = False
        self.refuses_claim: set[UUID] = set()
        """Rows for which the database refuses the claim of a batch that contains them."""
        self.refuses_extend: set[UUID] = set()
        self.down_after_claims = 0
        """If above 0, the claim with this number fails once, as if the database was away."""
        self.refused: set[UUID] = set()
        """Claimed rows that are not admitted."""
        self.round_trip = 0
        """Number of event loop iterations that a claim takes."""
        self.may_claim = opened()
        self.may_act = opened()
        self.may_settle = opened()
        self.may_clean_up = opened()
        self.may_end: dict[UUID, Event] = {}
        """Maps a row to the event that its attempt waits for; other attempts wait for `may_act`."""
        self.settlements = 0
        self.has_settled = Event()
        self.locked: set[UUID] = set()
        """Rows that another session has locked."""
        self.busy: list[Signal] = []
        """Each row whose settlement found it locked."""
        self.fails_settlement: dict[UUID, DatabaseFailure] = {}
        """Maps a row to the error of a settlement that contains it."""
        self.cleaned_up: list[Signal] = []

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
        if len(self.claims) == self.down_after_claims:
            raise DOWN
        self._refuse(self.refuses_claim, [signal.row_id for signal in signals])
        lease_until = self.clock.now() + LEASE_S
        attempts = [
            Attempt(signal=signal, tenant=signal.tenant, lease_until=lease_until)
            for signal in signals
            if signal.row_id not in self.not_ours | self.taken_over
        ]
        self.attempts |= {attempt.signal.row_id: attempt for attempt in attempts}
        return ClaimResult(attempts=attempts)

    def must_admit_again(self) -> bool:
        return self.is_down

    def admit(self, attempts: Sequence[Attempt]) -> tuple[Sequence[Attempt], Sequence[Attempt]]:
        is_held = [self.is_down or attempt.signal.row_id in self.refused for attempt in attempts]
        return (
            [attempt for attempt, held in zip(attempts, is_held, strict=True) if not held],
            [attempt for attempt, held in zip(attempts, is_held, strict=True) if held],
        )

    def started(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            attempt.deadline = attempt.began + self.attempt_timeout_s

    async def _act(self, attempt: Attempt) -> Outcome:
        signal = attempt.signal
        self.acting[signal.tenant] += 1
        self.most_acting |= self.acting
        self.most_in_all = max(self.most_in_all, self.acting.total())
        is_done = False
        try:
            await self.may_end.get(signal.row_id, self.may_act).wait()
            is_done = True
        finally:
            self.acting[signal.tenant] -= 1
            if not is_done:
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

    async def settle(self, ended: Sequence[tuple[Attempt, Outcome]]) -> SettleResult[Attempt]:
        await self.may_settle.wait()
        self._check("settle")
        for attempt, _ in ended:
            if failure := self.fails_settlement.get(attempt.signal.row_id):
                raise failure
        busy = [attempt for attempt, _ in ended if attempt.signal.row_id in self.locked]
        self.busy += [attempt.signal for attempt in busy]
        ended = [each for each in ended if each[0] not in busy]
        self.settled += [(attempt.signal, outcome.verdict) for attempt, outcome in ended]
        self.settlements += 1
        if ended:
            self.has_settled.set()
        later = [
            Due(attempt.signal, self.clock.database_now() + outcome.delay_s)
            for attempt, outcome in ended
            if outcome.verdict is Verdict.RETRY
        ]
        return SettleResult(later=later, busy=busy)

    async def clean_up(self, settled: Sequence[Attempt]) -> None:
        await self.may_clean_up.wait()
        self.cleaned_up += [attempt.signal for attempt in settled]

    async def extend(self, held: Sequence[Attempt]) -> Extension:
        self._check("extend")
        ids = {attempt.signal.row_id for attempt in held}
        self._refuse(self.refuses_extend, ids)
        self.extended.append(ids)
        return Extension(ids - self.taken_over - self.locked, (ids - self.taken_over) & self.locked)

    def _check(self, call: str) -> None:
        if call in self.down:
            raise DOWN

    @staticmethod
    def _refuse(refused: set[UUID], ids: Iterable[UUID]) -> None:
        if not refused.isdisjoint(ids):
            raise DatabaseRefused("the test's constraint", sqlstate="23514")

    def verdicts(self, verdict: Verdict) -> list[Signal]:
        return [signal for signal, settled in self.settled if settled is verdict]


def opened() -> Event:
    event = Event()
    event.set()
    return event


class WorkerHarness:
    """A worker and its schedule on a manual clock."""

    def __init__(self, *, concurrency: int = 4, per_tenant: int = 4, attempt_timeout_s: float = math.inf) -> None:
        self.clock = ManualClock()
        self.recorder = Recorder()
        self.health = CallHealth(self.clock)
        self.reaction = InMemoryRows(
            self.clock, concurrency=concurrency, per_tenant=per_tenant, attempt_timeout_s=attempt_timeout_s
        )
        self.ready = ReadyQueue()
        self.requests = requests = ReconcileRequests()
        self.schedule = Schedule(self.clock, {"rows": self.ready}, requests, horizon_s=900.0, emit=self.recorder)
        self.idle = asyncio.Event()
        self.worker = AttemptWorker(
            self.reaction,
            self.ready,
            self.schedule,
            requests,
            clock=self.clock,
            emit=self.recorder,
            concurrency=concurrency,
            per_tenant=per_tenant,
            lease_s=LEASE_S,
            idle=self.idle,
            health=self.health,
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
