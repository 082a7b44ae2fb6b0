"""A tickless timer wheel over integer ticks. It owns no clock: the caller brings the time.

The wheel has a slot for each *block* of 4 096 ticks. A key waits in its block's slot, in no order; as the present
enters the block, its keys are sorted by their ticks and given out from the front. So a key is handled twice in its
life, however far away it is due, and the sorting is the interpreter's own, of lists that fit the cache. A heap of a
million moves each key up and down twenty levels, and misses the cache on most. With a tick of 0.1 ms, of 1 000 000
timers over ten minutes some 680 are sorted at a time, mostly within 2.5 ms. (Why not a second wheel of blocks of
blocks, as is usual: its slots are large, and the million would move from one of them at once. Why 4 096: with smaller
blocks more slots compete for the cache, with larger ones the present block does, and they are a longer pause.)

Slots are made where keys are, at whatever distance, and a heap of their numbers tells the earliest: there is
nothing to step over while nothing is due. The heap costs O(log slots), but once a slot, not once a timer: fifteen
minutes are 2 200 slots, shared by all timers. Only one that is alone in its block pays for it by itself, with some
200 bytes and a dozen comparisons. Keys armed for the present block join those sorted before the next is asked for:
a few by bisection, many by sorting again, which is cheap where most is in order.

The dictionary of due ticks is the truth; an entry elsewhere is a hint. Cancelling or moving a key leaves its entry
where it was, *stale*. Each slot counts those and drops them once they outnumber the live ones, in a walk that the
cancellations before it have paid for. So `cancel` and `arm` never search, no walk is longer than a slot, and a
slot that is there has a key to wake for.

A timer costs a place in the dictionary, a pointer in a slot and, unless the caller shares it, an int: some 100
bytes. None of these is an object that Python's garbage collector tracks, and the slots' lists are used again:
neither arming nor popping starts a collection, nor gives one more objects to walk.
"""

import sys
from collections.abc import Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

from reactor.core.timer_slots import BITS, Blocks, Present

K = TypeVar("K", bound=Hashable)

_FEW: Final = 64
"""Keys for which the dictionary is never worth making smaller."""

_WASTEFUL_BYTES: Final = 1024
"""A key's share of the dictionary above which it is made anew; one that has only grown takes at most 120."""


class TimerWheel(Generic[K]):
    """Keys, each armed for one tick, given back once that tick has come.

    `now` is the tick at which the wheel starts; it must be at least 0.
    """

    __slots__ = ("_blocks", "_now", "_present", "due_ticks")

    def __init__(self, now: int = 0) -> None:
        if now < 0:
            raise ValueError(f"now must be at least 0, not {now}")

        # Invariant: no armed key is due before now.
        self._now = now
        self.due_ticks: dict[K, int] = {}

        # Invariant: a key is in `_blocks` exactly when it is due in a later block than now.
        self._blocks: Blocks[K] = Blocks()
        self._present: Present[K] = Present([], [])

    def __len__(self) -> int:
        return len(self.due_ticks)

    def __contains__(self, key: object) -> bool:
        return key in self.due_ticks

    @property
    def now(self) -> int:
        """The tick that the wheel has reached: whatever was due before it has been given back."""
        return self._now

    def due_of(self, key: K) -> int | None:
        """Return the tick at which `key` is due, None if it isn't armed."""
        return self.due_ticks.get(key)

    def sample(self, at_most: int) -> tuple[list[int], int]:
        """Return due ticks of evenly chosen keys, some `at_most` of them, and for how many keys each stands."""
        step = len(self.due_ticks) // at_most + 1
        return list(islice(self.due_ticks.values(), None, None, step)), step

    def arm(self, key: K, due: int) -> None:
        """Make `key` due at tick `due`, moving it if it is armed already.

        Any int will do. A tick that has passed is moved up to `now`: the key is due at once, behind those
        that have been waiting.
        """
        due = max(due, self._now)
        armed = len(self.due_ticks)
        before = self.due_ticks.setdefault(key, due)  # one look-up in the common case: hashing a key may be slow
        moves = len(self.due_ticks) == armed
        if moves:
            if before == due:
                return
            self.due_ticks[key] = due
            if before >> BITS == due >> BITS > self._now >> BITS:
                return
        block = due >> BITS
        if block > self._now >> BITS:
            self._blocks.add(key, block)
        else:
            self._present.add(key, due)
        if moves:
            # last: where an older entry says the very tick that the key moves back to, one of the two must go
            self._leave(before)

    def cancel(self, key: K) -> bool:
        """Disarm `key`; return whether it was armed."""
        due = self.due_ticks.pop(key, None)
        if due is None:
            return False
        if self._leave(due):
            self._shrink()
        return True

    def pop(self, now: int, limit: int | None = None) -> list[K]:
        """Advance to tick `now` and return the keys due by then, in order of their due ticks, disarmed.

        At most `limit` of them, when given; the wheel then stays at the tick of the last one, and the next
        call returns the rest. Keys of one tick come in no promised order. A `now` that has passed gives [].
        """
        popped: list[K] = []
        if now < self._now:
            return popped
        while self._reach(now):
            if len(popped) == limit:
                return popped
            keys = self._present.take(now, None if limit is None else limit - len(popped), self.due_ticks.get)
            self._now = self.due_ticks[keys[-1]]
            for key in keys:
                del self.due_ticks[key]
            popped += keys
        self._now = now
        self._shrink()
        return popped

    def next_due(self) -> int | None:
        """Return a tick to `pop` at, never later than the earliest due tick; None if nothing is armed.

        Exact in the present block; beyond it, the start of the earliest block. Whoever sleeps until then and
        pops gets nothing at most once, as the block's keys are put in order.
        """
        if (tick := self._present.first(self.due_ticks.get)) is not None:
            return tick
        block = self._blocks.first()
        return None if block is None else block << BITS

    def _reach(self, now: int) -> bool:
        """Enter the block of the earliest key that is due at `now` or before; return whether there is one."""
        while (tick := self._present.first(self.due_ticks.get)) is None:
            block = self._blocks.first()
            if block is None or block << BITS > now:
                return False
            self._now = block << BITS
            keys = self._blocks.take(block, self.due_ticks.get)
            self._present = Present(keys, [*map(self.due_ticks.__getitem__, keys)])
        return tick <= now

    def _leave(self, due: int) -> bool:
        """Let the entry at tick `due` be stale; return whether such entries were dropped."""
        if due >> BITS > self._now >> BITS:
            return self._blocks.leave(due >> BITS, self.due_ticks.get)
        return self._present.leave(self.due_ticks.get)

    def _shrink(self) -> None:
        """Make the dictionary anew if much was removed: it shrinks only by being copied.

        After a million timers that takes some 20 ms, once; to grow for so many takes Python longer.
        """
        if sys.getsizeof(self.due_ticks) > _WASTEFUL_BYTES * (len(self.due_ticks) + _FEW):
            self.due_ticks = dict(self.due_ticks)
