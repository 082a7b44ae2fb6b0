"""Owns the timer wheel: schedules signals, and moves each to its reaction's ready queue when it is due.

All signals pass through `Schedule.arm`, whether they come from a notification, a sweep or a failed attempt. After that,
they are handled in the same way.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from reactor.core.events import Emit, NotificationRejected, Notified, TimerFired
from reactor.core.fair_queue import FairQueue
from reactor.core.model import Due, Signal
from reactor.core.rendezvous import RendezvousOrder
from reactor.core.timer_wheel import TimerWheel
from reactor.engine.requests import ReconcileRequests
from reactor.postgres.notification import HINT_ROUNDING_S, BadPayload, decode
from reactor.reactions.base import Reaction
from reactor.runtime.clock import TICKS_PER_S, Clock

_POP_LIMIT = 2_000
"""Maximum number of timers that fire before other tasks run. This takes a few milliseconds."""

_ENOUGH_READY = 500
"""A reactor with at least this many ready signals yields the rows that rank another reactor first. The number is
the size of one claim."""

_SLACK_S = 15.0
"""A sweep reschedules a row whose timer is later than its due time by more than this."""


class ReadyQueue:
    """The due signals of one reaction, and whether due rows were left in the database or yielded."""

    def __init__(self) -> None:
        self.queue = FairQueue[Signal]()
        self.changed = asyncio.Event()
        """Set when the worker or its completer may have something to do."""
        self.is_incomplete = False
        """True if the last sweep left due rows in the database."""
        self.first_yielded: Signal | None = None
        """The first signal that was yielded to another reactor since the last sweep began; None if none was yielded."""

    @property
    def is_full(self) -> bool:
        """Whether enough signals are ready for a full claim, and at least one tenant is below its cap."""
        return len(self.queue) >= _ENOUGH_READY and self.queue.takeable


class Schedule:
    """The due times of signals within the horizon. A later sweep lists the rows that are due after the horizon."""

    def __init__(
        self,
        clock: Clock,
        ready_queues: Mapping[str, ReadyQueue],
        requests: ReconcileRequests,
        *,
        horizon_s: float,
        emit: Emit,
        capacity: int = 1_000_000,
    ) -> None:
        """`ready_queues` maps a reaction's name to its queue. `capacity`: maximum number of timers in the wheel."""
        self._clock = clock
        self._ready_queues = ready_queues
        self._requests = requests
        self._horizon_s = horizon_s
        self._emit = emit
        self._capacity = capacity
        self._wheel: TimerWheel[Signal] = TimerWheel(clock.tick())
        self._changed = asyncio.Event()
        self.rendezvous_order = RendezvousOrder()
        """Ranks the listening reactors for each row. `Listen` sets its members."""
        self.has_overflowed = False
        """True if a full wheel has dropped a signal since the last sweep began. A later sweep lists its row."""

    def __len__(self) -> int:
        """Return how many timers the wheel holds."""
        return len(self._wheel)

    def timers_by_due(self, width_s: float, count: int, sample: int) -> list[int]:
        """Return the number of timers that fire in each of `count` spans of `width_s` from now. The last is open-ended.

        Exact if the wheel has at most `sample` timers, otherwise an estimate from a sample.
        """
        width_ticks, now = width_s * TICKS_PER_S, self._clock.tick()
        counts = [0] * count
        due_ticks, weight = self._wheel.sample(sample)
        for due_tick in due_ticks:
            counts[min(count - 1, max(0, int((due_tick - now) / width_ticks)))] += weight
        return counts

    def is_waiting(self, signal: Signal) -> bool:
        """Return whether the signal is in the wheel or in its ready queue."""
        return signal in self._wheel.due_ticks or signal in self._ready_queues[signal.reaction].queue

    def arm_late(self, listed: Iterable[Due]) -> None:
        """Reschedule the rows that a sweep has listed and that are scheduled more than _SLACK_S after their due time.

        This corrects a forged or outdated notification. Deferred rows and rows of other reactors are within _SLACK_S.
        """
        now = self._clock.database_now()
        self.arm(due for due in listed if not self._is_due_by(due.signal, max(now, due.due_at) + _SLACK_S))

    def _is_due_by(self, signal: Signal, at: float) -> bool:
        """Return whether the signal is ready, or is in the wheel with a due time of at most `at`."""
        if (tick := self._wheel.due_ticks.get(signal)) is not None:
            return tick <= self._clock.tick_at(at)
        return signal in self._ready_queues[signal.reaction].queue

    def arm(self, dues: Iterable[Due]) -> None:
        """Schedule signals. A signal that is scheduled already moves to its new time."""
        now = self._clock.now() + self._clock.offset_s
        for signal, due_at in dues:
            if due_at <= now:
                if signal in self._wheel.due_ticks:
                    self._wheel.cancel(signal)
                self._offer(signal)
                continue
            tick = self._clock.tick_at(due_at)
            if due_at - now > self._horizon_s:
                self._wheel.cancel(signal)  # a sweep lists the row when it is due within the horizon
            elif len(self._wheel) < self._capacity or signal in self._wheel.due_ticks:
                self._wheel.arm(signal, tick)
            else:
                self.has_overflowed = True
            self._changed.set()

    # notified signals

    def schedule_notified(self, reaction: Reaction, text: str) -> None:
        """Schedule the rows that a notification names. Never waits, and never raises for any text.

        Invariant: a notification never makes a scheduled row due later, because any role can send one.
        """
        try:
            payload = decode(text)
        except BadPayload as error:
            self._emit(NotificationRejected(channel=reaction.channel, reason=str(error)))
            return
        dues = []
        # a hint's due time is rounded up by at most 1 ms, so the rows of hints for the next 1 ms may be due now; the
        # claim checks the row
        soon = self._clock.now() + self._clock.offset_s + HINT_ROUNDING_S
        for hint in payload.hints:
            signal = Signal(reaction.name, hint.row_id.int, hint.tenant)
            due_at = reaction.due_at(hint)
            if due_at is None:  # the row has ended: check a scheduled row now, because anybody may have sent the hint
                dues += [Due(signal, 0.0)] if signal in self._wheel.due_ticks else []
            elif due_at <= soon:
                dues.append(Due(signal, 0.0))
            elif not self._is_due_by(signal, due_at):
                dues.append(Due(signal, due_at))
        if others := self.arm_own(dues):
            if self._ready_queues[reaction.name].is_full:
                self.yield_to_others(others)
            else:
                self.take_over(others, self._clock.database_now())
        if payload.rescan:
            self._requests.request_pass()
        self._emit(Notified(channel=reaction.channel, rows=len(payload.hints)))

    # sharing with other reactors

    def arm_own(self, dues: Sequence[Due]) -> Sequence[Due]:
        """Schedule signals that all reactors receive, each with the delay of this reactor's rank for the row.

        Doesn't schedule signals that are due now and rank another reactor first: returns them, for the caller to yield
        or take over.
        """
        if self.rendezvous_order.is_alone:
            self.arm(dues)
            return ()
        now = self._clock.database_now()
        own, others = list[Due](), list[Due]()
        for due in dues:
            delay_s = self.rendezvous_order.delay_s(due.signal.row)
            if delay_s and due.due_at <= now:
                others.append(due)
            else:
                own.append(Due(due.signal, due.due_at + delay_s) if delay_s else due)
        self.arm(own)
        return others

    def take_over(self, others: Iterable[Due], since: float) -> None:
        """Schedule signals that rank another reactor first, each at `since` plus this reactor's delay for the row."""
        self.arm(Due(signal, since + self.rendezvous_order.delay_s(signal.row)) for signal, _ in others)

    def yield_to_others(self, others: Sequence[Due]) -> None:
        """Leave these signals of one reaction unscheduled. A later sweep checks that other reactors claimed them."""
        first = others[0].signal
        ready = self._ready_queues[first.reaction]
        if ready.first_yielded is None:
            ready.first_yielded = first
            self._requests.wake()

    # the wheel

    async def run(self) -> None:
        """Move each signal to its ready queue at its tick, never earlier. Never returns."""
        with self._clock.timer(self._changed.set) as timer:
            while True:
                now = self._clock.tick()
                offered = self._offer_due(now)
                # at the limit, more timers may be due: let other tasks run, then continue
                timer.set(now if offered == _POP_LIMIT else self._wheel.next_due())
                await self._changed.wait()
                self._changed.clear()

    def _offer(self, signal: Signal) -> None:
        ready = self._ready_queues[signal.reaction]
        ready.queue.put(signal)
        ready.changed.set()

    def _offer_due(self, now: int) -> int:
        """Move at most _POP_LIMIT signals that are due at tick `now` to their ready queues; return their number."""
        fired: list[Signal] = []
        # next_due may be the start of a block, before its timers: pop until a timer fires, so that the lag is exact
        while not fired and (next_due := self._wheel.next_due()) is not None and next_due <= now:
            if fired := self._wheel.pop(next_due, _POP_LIMIT):
                self._emit(TimerFired(lag_s=(now - next_due) / TICKS_PER_S))
        fired += self._wheel.pop(now, _POP_LIMIT - len(fired))
        for signal in fired:
            self._offer(signal)
        return len(fired)
