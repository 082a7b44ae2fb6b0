"""Owns the wheel: takes signals with their due times, and offers each to its reaction's ready queue when it is due.

Everything that may need doing comes through here: notified, swept, or to be tried again. From here on nothing can
tell one from the other.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from reactor.core.events import Emit, TimerFired
from reactor.core.fair_queue import FairQueue
from reactor.core.model import Due, Signal
from reactor.core.rendezvous import Turns
from reactor.core.timer_wheel import Wheel
from reactor.runtime.auto_reset_event import Wakeup
from reactor.runtime.clock import TICKS_PER_S, Clock

_POP_AT_ONCE = 2_000
"""Timers offered before the loop may breathe; a few milliseconds' worth."""

_ENOUGH = 500
"""With so many ready, a reactor leaves to the others what is their turn: as many as one claim takes."""


class ReadyQueue:
    """A reaction's ready queue, and the call that wakes its worker."""

    def __init__(self) -> None:
        self.queue = FairQueue[Signal]()
        self.wakeup = Wakeup()


class Schedule:
    """What is due when, within the horizon; beyond it the database remembers."""

    def __init__(
        self,
        clock: Clock,
        ready_queues: Mapping[str, ReadyQueue],
        *,
        horizon_s: float,
        emit: Emit,
        capacity: int = 1_000_000,
    ) -> None:
        self._clock = clock
        self._lanes = ready_queues
        self._horizon_ticks = round(horizon_s * TICKS_PER_S)
        self._emit = emit
        self._capacity = capacity
        self._wheel: Wheel[Signal] = Wheel(clock.tick())
        self._changed = Wakeup()
        self.turns = Turns()
        """Which reactor is to claim what several know of; who is there is told by who knows."""
        self.left: dict[str, Signal] = {}
        """By reaction, the first signal that was left to another reactor since the last sweep; the next may find it."""
        self.on_left: Callable[[], None] = lambda: None
        """Called when a reaction's first signal since its last sweep is left to another reactor."""
        self.overflowed = False
        """True once a signal was left to the database for want of room; the next sweep must bring it back."""

    def __len__(self) -> int:
        return len(self._wheel)

    def spread(self, width_s: float, count: int, *, sample: int) -> list[int]:
        """Return about how many timers fire in each of `count` spans of `width_s` from now; later ones in the last.

        Looks at some `sample` timers: exact up to so many, an estimate beyond.
        """
        width, now = width_s * TICKS_PER_S, self._clock.tick()
        spread = [0] * count
        dues, weight = self._wheel.sample(sample)
        for due in dues:
            spread[min(count - 1, max(0, int((due - now) / width)))] += weight
        return spread

    def is_waiting(self, signal: Signal) -> bool:
        """Return whether the signal waits here: in the wheel or ready."""
        return signal in self._wheel or signal in self._lanes[signal.reaction].queue

    def arm(self, dues: Iterable[Due]) -> None:
        """Take signals in; one that is known already moves to its new time. Never waits."""
        now = self._clock.tick()
        for signal, due_at in dues:
            tick = self._clock.tick_at(due_at)
            if tick <= now:
                self._wheel.cancel(signal)  # due already: it would only pass through
                self._offer(signal)
            elif tick - now > self._horizon_ticks:
                self._wheel.cancel(signal)  # the database says later than we knew, and remembers it
            elif len(self._wheel) < self._capacity or signal in self._wheel:
                self._wheel.arm(signal, tick)
            else:
                self.overflowed = True
        self._changed.set()

    def hear(self, dues: Iterable[Due]) -> None:
        """Take in signals of one reaction that every reactor hears of; what is due and another's turn is left to it, or
        stood in for."""
        if others := self.share(dues):
            if self.has_enough(others[0].signal.reaction):
                self.leave(others)
            else:
                self.stand_in(others, self._clock.database_now())

    def share(self, dues: Iterable[Due]) -> list[Due]:
        """Take in signals that every reactor knows of, each to be offered here when it is this one's turn.

        Return what is due and another's turn: to be left to it, or stood in for.
        """
        if self.turns.is_alone:
            self.arm(dues)
            return []
        now = self._clock.database_now()
        ours, others = list[Due](), list[Due]()
        for due in dues:
            signal, due_at = due
            delay_s = self.turns.delay_s(signal.row)
            if delay_s and due_at <= now:
                others.append(due)
            else:
                ours.append(Due(signal, due_at + delay_s) if delay_s else due)
        self.arm(ours)
        return others

    def stand_in(self, others: Iterable[Due], since: float) -> None:
        """Take in signals that were another's turn at `since`: each is offered here as that one should have acted."""
        self.arm(Due(signal, since + self.turns.delay_s(signal.row)) for signal, _ in others)

    def leave(self, others: Sequence[Due]) -> None:
        """Leave signals of one reaction to those whose turn it is; a sweep finds what they don't get to."""
        first = others[0].signal
        if first.reaction not in self.left:
            self.left[first.reaction] = first
            self.on_left()

    def has_enough(self, reaction: str) -> bool:
        """Return whether so much is ready that what others may do is left to them.

        When two look for the same rows, each finds half of what it asks for.
        """
        ready = self._lanes[reaction].queue
        return len(ready) >= _ENOUGH and ready.takeable

    def forget(self, signal: Signal) -> None:
        """Drop a signal whose row needs nothing any more."""
        self._wheel.cancel(signal)
        self._lanes[signal.reaction].queue.discard(signal)

    async def run(self) -> None:
        """Offer each signal at its tick and not before; sleeps until the next one is due or something changes."""
        with self._clock.timer(self._changed.set) as timer:
            while True:
                now = self._clock.tick()
                offered = self._turn(now)
                # when more are due, let the others run and go on
                timer.set(now if offered == _POP_AT_ONCE else self._wheel.next_due())
                await self._changed.wait()

    def _offer(self, signal: Signal) -> None:
        ready = self._lanes[signal.reaction]
        ready.queue.put(signal)
        ready.wakeup.set()

    def _turn(self, now: int) -> int:
        """Offer what is due at `now`, a limited number at once; return how many."""
        fired: list[Signal] = []
        # a far timer's next_due is where its slot begins; popped slot by slot, it is exact by the time it fires
        while not fired and (next_due := self._wheel.next_due()) is not None and next_due <= now:
            if fired := self._wheel.pop(next_due, _POP_AT_ONCE):
                self._emit(TimerFired(lag_s=(now - next_due) / TICKS_PER_S))
        fired += self._wheel.pop(now, _POP_AT_ONCE - len(fired))
        for signal in fired:
            self._offer(signal)
        return len(fired)
