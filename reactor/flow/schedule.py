"""Owns the wheel: takes signals with their due times, and offers each to its reaction's ready queue when it is due.

Everything that may need doing comes through here: notified, swept, or to be tried again. From here on nothing can
tell one from the other.
"""

from collections.abc import Iterable, Mapping

from reactor.core.events import Emit, TimerFired
from reactor.core.fair import FairQueue
from reactor.core.model import Due, Signal
from reactor.core.wheel import Wheel
from reactor.edge.clock import TICKS_PER_S, Clock
from reactor.flow.wakeup import Wakeup

_POP_AT_ONCE = 2_000
"""Timers offered before the loop may breathe; a few milliseconds' worth."""


class Lane:
    """A reaction's ready queue, and the call that wakes its worker."""

    def __init__(self) -> None:
        self.ready = FairQueue()
        self.wakeup = Wakeup()


class Schedule:
    """What is due when, within the horizon; beyond it the database remembers."""

    def __init__(
        self, clock: Clock, lanes: Mapping[str, Lane], *, horizon_s: float, emit: Emit, capacity: int = 1_000_000
    ) -> None:
        self._clock = clock
        self._lanes = lanes
        self._horizon_ticks = round(horizon_s * TICKS_PER_S)
        self._emit = emit
        self._capacity = capacity
        self._wheel: Wheel[Signal] = Wheel(clock.tick())
        self._changed = Wakeup()
        self.overflowed = False
        """True once a signal was left to the database for want of room; the next sweep must bring it back."""

    def __len__(self) -> int:
        return len(self._wheel)

    def knows(self, signal: Signal) -> bool:
        """Return whether the signal waits here: in the wheel or ready."""
        return signal in self._wheel or signal in self._lanes[signal.reaction].ready

    def arm(self, dues: Iterable[Due]) -> None:
        """Take signals in; one that is known already moves to its new time. Never waits."""
        now = self._clock.tick()
        earliest = now + 1
        for signal, due_at in dues:
            tick = self._clock.tick_at(due_at)
            earliest = min(earliest, tick)
            if tick - now > self._horizon_ticks:
                self._wheel.cancel(signal)  # the database says later than we knew, and remembers it
            elif len(self._wheel) < self._capacity or signal in self._wheel:
                self._wheel.arm(signal, tick)
            else:
                self.overflowed = True
        if earliest <= now:
            self._offer(now)  # at once: what has just been notified must not wait for another task to come round
        self._changed.set()

    def forget(self, signal: Signal) -> None:
        """Drop a signal whose row needs nothing any more."""
        self._wheel.cancel(signal)
        self._lanes[signal.reaction].ready.discard(signal)

    async def run(self) -> None:
        """Offer each signal at its tick and not before; sleeps until the next one is due or something changes."""
        while True:
            now = self._clock.tick()
            offered = self._offer(now)
            # when more are due, let the others run and go on
            with self._clock.alarm(now if offered == _POP_AT_ONCE else self._wheel.next_due()):
                await self._changed.wait()

    def _offer(self, now: int) -> int:
        """Move what is due from the wheel to the ready queues, a limited number at once; return how many."""
        next_due = self._wheel.next_due()
        fired = self._wheel.pop(now, _POP_AT_ONCE)
        if fired and next_due is not None:
            self._emit(TimerFired(lag_s=max(0, now - next_due) / TICKS_PER_S))
        woken = set()
        for signal in fired:
            self._lanes[signal.reaction].ready.put(signal)
            woken.add(signal.reaction)
        for reaction in woken:
            self._lanes[reaction].wakeup.set()
        return len(fired)
