"""Runs reconciliation passes: at start, on each new listening connection, on request, and every few minutes.

A pass rescues rows whose worker has gone, lists the rows that are due within the horizon, and schedules them. This loop
finds every row even without notifications, which only make the reactor faster. A row that a sweep finds overdue, and
that a notification should have scheduled, is counted as missed. A count above 0 means that notifications are lost.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from anyio import Event

from reactor.core.errors import DatabaseFailure, DatabaseRefused, DatabaseUnavailable
from reactor.core.events import DatabaseLost, Emit, Reconciled, Swept, UsageRepaired
from reactor.core.model import Due, Signal
from reactor.engine.changes import Changes
from reactor.engine.pauses import Pauses
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import Schedule
from reactor.engine.worker import Worker
from reactor.postgres.call_health import CallHealth
from reactor.postgres.usage import StorageUsage
from reactor.runtime.clock import TICKS_PER_S, Clock

if TYPE_CHECKING:
    from reactor.core.trace_context import TraceContext

_MISSED_AFTER_S = 5.0
"""A row counts as missed when it is overdue for longer than this. Before that, another reactor may be claiming it."""

_RETRY_S = 1.0
"""Delay before a failed pass or refill is repeated, and between a sweep that scheduled no new row and a refill."""

_CHECK_YIELDED_AFTER_S = 30.0
"""Delay from yielding rows until a sweep checks that other reactors have claimed them. A dead reactor is noticed within
this time (PRESENCE_INTERVAL_S + PRESENCE_EXPIRES_S)."""

_CHUNK_ROWS = 100
"""Number of rows that a sweep schedules before other tasks run. 50 000 rows would block the event loop for 150 ms."""

_CHUNK_PAUSE_S = 0.001


class Reconcile:
    """The loop that schedules due rows from the database, including rows whose notification was lost."""

    def __init__(
        self,
        workers: Sequence[Worker[Any]],
        schedule: Schedule,
        requests: ReconcileRequests,
        usage: StorageUsage,
        *,
        clock: Clock,
        emit: Emit,
        interval_s: float,
        horizon_s: float,
        health: CallHealth,
    ) -> None:
        self._workers = workers
        self._schedule = schedule
        self._requests = requests
        self._usage = usage
        self._clock = clock
        self._emit = emit
        self._interval_s = interval_s
        self._horizon_s = horizon_s
        self._pauses = Pauses(clock, health, first_s=_RETRY_S)
        self.skipped: list[str] = []
        """What the last pass couldn't do, one line each, with the reason."""
        self._notified_since: float | None = None
        """Database time since which notifications arrive; None while they don't arrive."""
        self._must_take_over = set[str]()
        """Reactions whose yielded rows no other reactor claimed. The next sweep takes these rows over."""
        self._check_yielded_at: dict[str, float] = {}
        self._refill_after = 0.0
        self._began_at = 0.0
        self._rescued: list[TraceContext] = []
        self._passes_begun = self._passes_ended = 0
        self._pass_ended = Event()
        self._finished_at = 0.0
        self.polling_interval_s: float | None = None
        """Seconds between passes while the database is polled. None if it isn't polled: then `interval_s` applies."""

    @property
    def has_more(self) -> bool:
        """Whether the last sweep of any reaction has left due rows in the database."""
        return any(worker.ready.is_incomplete for worker in self._workers)

    def expect_notifications(self, *, arrive: bool) -> None:
        """Set whether notifications arrive from now on. While they don't arrive, no row is counted as missed."""
        self._notified_since = self._clock.database_now() if arrive else None

    async def request_and_wait(self) -> None:
        """Request a whole pass. Return when a pass that began after this call has ended."""
        wanted = self._passes_begun + 1
        self._requests.request_pass()
        while self._passes_ended < wanted:
            await self._pass_ended.wait()

    async def run(self) -> None:
        """Run passes and refills, on request and on time. Never returns."""
        requests = self._requests
        while True:
            try:
                if requests.whole_pass:
                    await self.run_pass()
                    self.emit_reconciled()
                elif requests.refill and self._clock.now() >= self._refill_after:
                    await self.refill()
            except DatabaseFailure as error:
                self._emit(DatabaseLost(doing="reconcile", reason=str(error)))
                requests.refill = True  # the failed refill must be repeated
                await self._pauses.pause()
                continue
            self._pauses.reset()
            pass_at = round((self._finished_at + (self.polling_interval_s or self._interval_s)) * TICKS_PER_S)
            # a refill requested before _refill_after is delayed, not dropped: the worker may not request it again
            refill_at = round(self._refill_after * TICKS_PER_S) + 1
            check_at = self._next_check(pass_at)
            with self._clock.alarm(min(pass_at, refill_at if requests.refill else check_at)):
                await requests.changed.wait()
            requests.changed.clear()
            requests.whole_pass |= self._clock.tick() >= pass_at
            requests.refill |= self._clock.tick() >= self._next_check(pass_at)

    def _next_check(self, otherwise: int) -> int:
        """Return the tick at which a sweep must check yielded rows, or `otherwise` when no row was yielded."""
        now = self._clock.now()
        yielded = [worker.reaction.name for worker in self._workers if worker.ready.first_yielded is not None]
        for name in yielded:
            self._check_yielded_at.setdefault(name, now + _CHECK_YIELDED_AFTER_S)
        at = min((self._check_yielded_at[name] for name in yielded), default=None)
        return otherwise if at is None else round(at * TICKS_PER_S)

    async def run_pass(self) -> None:
        """Run one whole pass: rescue and sweep each reaction, then repair usage. Raises a DatabaseFailure.

        A step that the database refuses, or that another session's lock prevents, is skipped and reported.
        """
        self._requests.whole_pass = self._requests.refill = False
        self._passes_begun += 1
        self._began_at = self._clock.database_now()
        self._rescued = []
        self.skipped = []
        try:
            for worker in self._workers:
                await self._step(f"rescue {worker.reaction.name}", partial(self._rescue, worker))
                await self._step(f"sweep {worker.reaction.name}", partial(self._sweep, worker))
            await self._step("repair usage", self._repair_usage)
        except DatabaseFailure:
            self._requests.whole_pass = True
            raise
        self._finished_at = self._clock.now()
        self._passes_ended = self._passes_begun
        self._pass_ended.set()
        self._pass_ended = Event()

    async def _step(self, doing: str, step: Callable[[], Awaitable[None]]) -> None:
        """Run one step of a pass. The fault of one row, or another session's lock, must not stop the others."""
        try:
            await step()
        except DatabaseFailure as error:
            if not isinstance(error, DatabaseRefused) and not (
                isinstance(error, DatabaseUnavailable) and error.is_busy
            ):
                raise
            self.skipped.append(f"couldn't {doing}: {error}")
            self._emit(DatabaseLost(doing=doing, reason=str(error)))

    async def _rescue(self, worker: Worker[Any]) -> None:
        self._rescued += await worker.reaction.rescue()

    async def _repair_usage(self) -> None:
        for kind, count in (await self._usage.repair()).items():
            self._emit(UsageRepaired(kind=kind, count=count))

    def emit_reconciled(self, changes: Changes | None = None) -> None:
        """Emit `Reconciled` for the last pass. It counts the rescued rows, and the rows in `changes` if given."""
        self._emit(
            Reconciled(
                pass_id=uuid4(),
                began_at=self._began_at,
                ended_at=self._clock.database_now(),
                changed=len(self._rescued) + (changes.count if changes else 0),
                links=[*self._rescued, *(changes.links if changes else ())],
            )
        )

    async def refill(self) -> None:
        """Sweep the reactions that left rows in the database or yielded rows. Raises a DatabaseFailure."""
        self._requests.refill = False
        for worker in self._workers:
            if worker.ready.is_incomplete or worker.ready.first_yielded is not None:
                await self._sweep(worker)

    # one sweep

    async def _sweep(self, worker: Worker[Any]) -> None:
        with worker.track_released() as released:
            await self._schedule_listed(worker, released)

    async def _schedule_listed(self, worker: Worker[Any], released: Container[Signal]) -> None:
        began, name, ready = self._clock.now(), worker.reaction.name, worker.ready
        yielded_before, ready.first_yielded = ready.first_yielded, None
        self._check_yielded_at.pop(name, None)
        # is_incomplete stays true if the sweep raises, so that a later refill lists the left and yielded rows
        was_incomplete = ready.is_incomplete = ready.is_incomplete or yielded_before is not None
        self._schedule.has_overflowed = False
        sweep = await worker.reaction.sweep(self._horizon_s)
        rows, counts, others = iter(sweep.rows), Counter[str](), list[Due]()

        def is_new(signal: Signal) -> bool:
            # the row of a released signal may have changed since the sweep read it
            is_ours = worker.is_claimed(signal) or self._schedule.is_waiting(signal) or signal in released
            return not (is_ours or worker.set_aside.is_waiting(signal))

        while chunk := [*islice(rows, _CHUNK_ROWS)]:
            new = [row for row in chunk if is_new(row[0].signal)]
            counts["found"] += len(new)
            if not was_incomplete:  # a row that an earlier sweep left or yielded has not missed its notification
                counts["missed"] += sum(self._is_missed(*row) for row in new if row[0].signal not in worker.set_aside)
            others += self._schedule.arm_own([due for due, _ in new])
            self._schedule.arm_late(due for due, _ in chunk if self._schedule.is_waiting(due.signal))
            if len(chunk) == _CHUNK_ROWS:
                (first, _), *_ = chunk
                # don't pause if the worker has few ready signals and these rows are due
                is_wanted = worker.is_low and first.due_at <= self._clock.database_now()
                await self._clock.sleep(0.0 if is_wanted else _CHUNK_PAUSE_S)
        if others and ready.is_full and name not in self._must_take_over:
            self._schedule.yield_to_others(others)
            counts["found"] -= len(others)
        else:
            await self._take_over(others, is_new)
        if yielded_before is not None and yielded_before == ready.first_yielded:
            self._must_take_over.add(name)
        else:
            self._must_take_over.discard(name)
        ready.is_incomplete = not sweep.complete or self._schedule.has_overflowed
        ended = self._clock.now()
        if not counts["found"]:
            # all listed rows were already scheduled, claimed or yielded. A sweep lists other rows only after some of
            # these are settled
            self._refill_after = ended + _RETRY_S
        self._emit(Swept(reaction=name, found=counts["found"], missed=counts["missed"], duration_s=ended - began))

    async def _take_over(self, others: Sequence[Due], is_new: Callable[[Signal], bool]) -> None:
        since = self._clock.database_now()  # the same time for all rows, so that they are claimed in few batches
        for first in range(0, len(others), _CHUNK_ROWS):
            chunk = others[first : first + _CHUNK_ROWS]
            self._schedule.take_over([due for due in chunk if is_new(due.signal)], since)
            await self._clock.sleep(0.0)

    def _is_missed(self, due: Due, changed_at: float) -> bool:
        overdue_s = self._clock.database_now() - max(due.due_at, changed_at)
        return self._notified_since is not None and changed_at > self._notified_since and overdue_s > _MISSED_AFTER_S
