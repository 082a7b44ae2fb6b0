"""Catch up with the database: at start, at each new listening connection, on demand, and every few minutes.

A pass rescues what nobody works on any more, lists what is due within the horizon, and arms it. Correctness rests on
this loop alone; notifications only make it fast. What a pass finds overdue, and no notification told of, is counted:
a figure above zero says that notifications are being lost.
"""

from collections.abc import Callable, Container, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import (
    MOST_LINKS,
    AttemptsSettled,
    DatabaseLost,
    Emit,
    Event,
    Reconciled,
    RunExpired,
    Swept,
    UsageRepaired,
)
from reactor.core.model import Due, Signal, Verdict
from reactor.core.trace_context import TraceContext
from reactor.engine.schedule import Schedule
from reactor.engine.worker import Worker
from reactor.postgres.usage import StorageUsage
from reactor.reactions.base import Reaction
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import TICKS_PER_S, Clock

_MISSED_AFTER_S = 5.0
"""How long overdue a row must be before it counts as missed: others may be about to take it."""

_RETRY_S = 1.0

_LOOK_AFTER_S = 30.0
"""How long others are trusted with what was left to them: as long as one that died may go unnoticed."""

_AT_ONCE = 100
"""Rows of a sweep that are taken in before others have the loop for a moment; 50 000 take it 150 ms."""

_BREATH_S = 0.001


class Changes:
    """Hears which rows change while a pass is worked off, and where they stand in their traces. An `Emit`."""

    def __init__(self) -> None:
        self.count = 0
        self.links = list[TraceContext]()
        """Where the first MOST_LINKS of them stand."""

    def __call__(self, event: Event) -> None:
        match event:
            case AttemptsSettled():
                changed = [settled for settled in event.attempts if settled.verdict is not Verdict.DEFERRED]
                self.count += len(changed)
                room = max(0, MOST_LINKS - len(self.links))
                self.links += [settled.trail.context for settled in changed[:room]]
            case RunExpired():
                self.count += 1
                self.links.append(event.context)
            case _:
                pass

    def clear(self) -> None:
        self.count = 0
        self.links = []


class Reconcile:
    """The loop that finds whatever was missed."""

    def __init__(
        self,
        pipelines: Sequence[tuple[Reaction[Any], Worker[Any]]],
        schedule: Schedule,
        usage: StorageUsage,
        *,
        clock: Clock,
        emit: Emit,
        interval_s: float,
        horizon_s: float,
    ) -> None:
        self._pipelines = pipelines
        self._schedule = schedule
        self._usage = usage
        self._clock = clock
        self._emit = emit
        self._interval_s = interval_s
        self._horizon_s = horizon_s
        self._wanted = Wakeup()
        self._whole_pass = True
        self._trusted_since: float | None = None
        self._more: dict[str, bool] = {}
        self._distrusted = set[str]()
        self._wants_more = False
        self._refill_after = 0.0
        self._look_after = 0.0
        self._began_at = 0.0
        self._rescued: list[TraceContext] = []
        self.polling_interval_s: float | None = None
        """Seconds between passes while no notification can be heard; None while they can."""
        self.finished_at: float | None = None
        """Monotonic time of the last whole pass; None before the first."""
        self.on_pass: Callable[[], None] = lambda: None
        """Called after each whole pass."""

    @property
    def has_more(self) -> bool:
        """Return whether a sweep left rows behind that were due."""
        return any(self._more.values())

    def request(self) -> None:
        """Ask for a whole pass now."""
        self._whole_pass = True
        self._wanted.set()

    def refill(self, reaction: str) -> None:
        """A reaction is running out of ready rows: fetch more, if some was left in the database or to others."""
        is_spare = reaction in self._schedule.left and not self._schedule.has_enough(reaction)
        if self._more.get(reaction) or is_spare:
            self._wants_more = True
            self._wanted.set()

    def look_later(self) -> None:
        """Something was left to another reactor: look in a while whether it is still there."""
        self._look_after = self._clock.now() + _LOOK_AFTER_S
        self._wanted.set()

    def trust(self, *, heard: bool) -> None:
        """Say whether notifications are heard from now on; only while they are can one be missed."""
        self._trusted_since = self._clock.database_now() if heard else None

    async def run(self) -> None:
        """Do a pass on request and on time, and bring more of a backlog whenever there is room for it."""
        while True:
            try:
                if self._whole_pass:
                    await self.once()
                    self.tell()
                elif self._wants_more and self._clock.now() >= self._refill_after:
                    await self.bring_more()
            except DatabaseUnavailable as error:
                self._emit(DatabaseLost(doing="reconcile", reason=str(error)))
                self._wants_more = True  # what was to be brought is to be brought still
                await self._clock.sleep(_RETRY_S)
                continue
            interval_s = self.polling_interval_s or self._interval_s
            due = round(((self.finished_at or 0.0) + interval_s) * TICKS_PER_S)
            # a refill that comes too soon is put off, not dropped: nobody may ask again
            refill = round(self._refill_after * TICKS_PER_S) + 1
            look = round(self._look_after * TICKS_PER_S) if self._schedule.left else due
            with self._clock.alarm(min(due, refill if self._wants_more else look)):
                await self._wanted.wait()
            self._whole_pass |= self._clock.tick() >= due
            self._wants_more |= self._clock.tick() >= look

    async def once(self) -> None:
        """Do one whole pass: rescue, sweep and arm, for every reaction; then mend the books.

        Raises DatabaseUnavailable.
        """
        self._whole_pass = self._wants_more = False
        self._began_at = self._clock.database_now()
        self._rescued = []
        try:
            for reaction, work in self._pipelines:
                self._rescued += await reaction.rescue()
                await self._sweep(reaction, work)
            for kind, count in (await self._usage.repair()).items():
                self._emit(UsageRepaired(kind=kind, count=count))
        except DatabaseUnavailable:
            self._whole_pass = True  # it is owed still
            raise
        self.finished_at = self._clock.now()
        self.on_pass()

    def tell(self, also: Changes | None = None) -> None:
        """Tell of the last pass, and of what whoever asked for it changed by it."""
        self._emit(
            Reconciled(
                pass_id=uuid4(),
                began_at=self._began_at,
                ended_at=self._clock.database_now(),
                changed=len(self._rescued) + (also.count if also else 0),
                links=[*self._rescued, *(also.links if also else ())],
            )
        )

    async def bring_more(self) -> None:
        """Sweep once more what a sweep left in the database. Raises DatabaseUnavailable."""
        self._wants_more = False
        for reaction, work in self._pipelines:
            if self._more.get(reaction.name) or reaction.name in self._schedule.left:
                await self._sweep(reaction, work)

    async def _sweep(self, reaction: Reaction[Any], work: Worker[Any]) -> None:
        with work.track_released() as gone:
            await self._take_in(reaction, work, gone)

    async def _take_in(self, reaction: Reaction[Any], work: Worker[Any], gone: Container[Signal]) -> None:
        began, name = self._clock.now(), reaction.name
        left = self._schedule.left.pop(name, None)
        was_incomplete = self._more[name] = self._more.get(name, False) or left is not None
        self._schedule.overflowed = False
        sweep = await reaction.sweep(self._horizon_s)
        rows, found, missed, others = iter(sweep.rows), 0, 0, list[Due]()

        def is_news(signal: Signal) -> bool:
            # what was settled since the rows were read is no longer what they say, and nobody missed it
            return not (work.is_claimed(signal) or self._schedule.is_waiting(signal) or signal in gone)

        while some := [*islice(rows, _AT_ONCE)]:
            unknown = [row for row in some if is_news(row[0].signal)]
            found += len(unknown)
            if not was_incomplete:  # else it was left behind: nobody missed it
                missed += sum(self._is_missed(*row) for row in unknown)
            others += self._schedule.share(due for due, _ in unknown)
            if len(some) == _AT_ONCE:
                (first, _), *_ = some
                # who has too little to do waits for these very rows, if they are due
                is_wanted = work.is_low and first.due_at <= self._clock.database_now()
                await self._clock.sleep(0.0 if is_wanted else _BREATH_S)
        if others and self._schedule.has_enough(name) and name not in self._distrusted:
            self._schedule.leave(others)
            found -= len(others)
        else:
            await self._stand_in(others, is_news)
        # what is the first to be left again doesn't get on where it was left
        if left is not None and left == self._schedule.left.get(name):
            self._distrusted.add(name)
        else:
            self._distrusted.discard(name)
        self._more[name] = not sweep.complete or self._schedule.overflowed
        ended = self._clock.now()
        if not found:
            self._refill_after = ended + _RETRY_S  # all it lists is known: more can only come as that is done
        self._emit(Swept(reaction=name, found=found, missed=missed, duration_s=ended - began))

    async def _stand_in(self, others: Sequence[Due], is_news: Callable[[Signal], bool]) -> None:
        since = self._clock.database_now()  # one moment for all, so that they are claimed together
        for first in range(0, len(others), _AT_ONCE):
            some = others[first : first + _AT_ONCE]
            self._schedule.stand_in([due for due in some if is_news(due.signal)], since)
            await self._clock.sleep(0.0)

    def _is_missed(self, due: Due, changed_at: float) -> bool:
        overdue_s = self._clock.database_now() - max(due.due_at, changed_at)
        return self._trusted_since is not None and changed_at > self._trusted_since and overdue_s > _MISSED_AFTER_S
