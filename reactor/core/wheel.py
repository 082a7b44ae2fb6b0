"""A hierarchical, tickless timer wheel over integer ticks. It owns no clock: the caller brings the time.

A tick is a digit string in base 1024, and the wheel a tree over those digits. Level 0 has a slot for each
tick that shares all digits but the last with the present; level 1 a slot for each block of 1024 ticks that
shares all but the last two; and so on. With a tick of 1 ms:

    level   a slot spans    the level reaches
    0       1 ms            to the end of this 1.02 s
    1       1.02 s          to the end of this 17 minutes
    2       17 minutes      to the end of this 12 days
    3       12 days         to the end of this 35 years, and so on: levels are made as they are needed

As the present enters a slot of a higher level, the slot's keys move to lower levels (they *cascade*), each at
most once a level. A timer within the usual horizon of 15 minutes is thus placed two or three times in its
life, whatever else is in the wheel: O(1), where a heap is O(log n) with a cache miss at every step. Anything
on a lower level is earlier than anything on a higher one, and no slot lies in the past, so the earliest slot
is found with one bit trick on the lowest level that isn't empty. (Why 1024 slots and not 256: one cascade
less, and of 1 000 000 timers over ten minutes it moves some 1700 at a time, in 2 ms; a slot of 65 s would
hold 100 000 and take 60 ms.)

The dictionary of due ticks is the truth; an entry in a slot is a hint. Cancelling or moving a key leaves its
entry where it was, *stale*; it is dropped when its slot is reached, and all of them are once they outnumber
the live ones. So `cancel` and `arm` never search.

A timer costs a place in the dictionary, a pointer in a slot and, unless the caller shares it, an int. None of
these is an object that Python's garbage collector tracks, and the slots' lists are made once and kept:
neither arming nor popping ever starts a collection, nor gives one more objects to walk.
"""

from collections import deque
from collections.abc import Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

from attrs import define, field

K = TypeVar("K", bound=Hashable)

_BITS: Final = 10
_SLOTS: Final = 1 << _BITS
_MASK: Final = _SLOTS - 1

_FEW: Final = 1024
"""Stale entries that are never worth a compaction."""


@define
class _Level(Generic[K]):
    """The slots of one digit."""

    shift: int
    """How many bits the digit is from the right; a slot spans `1 << shift` ticks."""

    # Invariant: bit i is set exactly when slot i has entries.
    occupied: int = 0

    slots: list[list[K]] = field(factory=lambda: [[] for _ in range(_SLOTS)])

    def add(self, key: K, due: int) -> None:
        """Add an entry for `key` to the slot of tick `due`."""
        index = due >> self.shift & _MASK
        slot = self.slots[index]
        if not slot:
            self.occupied |= 1 << index
        slot.append(key)

    def earliest(self, now: int) -> tuple[int, list[K]]:
        """Return the first tick of the first slot with entries, and the slot, seen from tick `now`."""
        index = (self.occupied & -self.occupied).bit_length() - 1
        return (now >> self.shift & ~_MASK | index) << self.shift, self.slots[index]

    def close_earliest(self) -> None:
        """Mark the first slot with entries as empty."""
        self.occupied &= self.occupied - 1


class Wheel(Generic[K]):
    """Keys, each armed for one tick, given back once that tick has come.

    `now` is the tick at which the wheel starts; it must be at least 0.
    """

    __slots__ = ("_due", "_levels", "_now", "_ready", "_stale")

    def __init__(self, now: int = 0) -> None:
        if now < 0:
            raise ValueError(f"now must be at least 0, not {now}")

        # Invariant: no armed key is due before now.
        self._now = now
        self._due: dict[K, int] = {}

        # Invariant: each armed key has an entry where its due tick belongs; all other entries are stale.
        # What has an entry here is due now; the deque gives keys out first come, first served.
        self._ready: deque[K] = deque()
        self._levels: list[_Level[K]] = [_Level(0)]

        # Invariant: there are as many entries as armed keys and stale entries together.
        self._stale = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: object) -> bool:
        return key in self._due

    @property
    def now(self) -> int:
        """The tick that the wheel has reached: whatever was due before it has been given back."""
        return self._now

    def due_of(self, key: K) -> int | None:
        """Return the tick at which `key` is due, None if it isn't armed."""
        return self._due.get(key)

    def sample(self, at_most: int) -> tuple[list[int], int]:
        """Return due ticks of evenly chosen keys, some `at_most` of them, and for how many keys each stands."""
        step = len(self._due) // at_most + 1
        return list(islice(self._due.values(), None, None, step)), step

    def arm(self, key: K, due: int) -> None:
        """Make `key` due at tick `due`, moving it if it is armed already.

        Any int will do. A tick that has passed is moved up to `now`: the key is due at once, behind those
        that have been waiting. A far one costs 64 kB, once, for each factor of 1024 in its distance.
        """
        due = max(due, self._now)
        armed = len(self._due)
        before = self._due.setdefault(key, due)  # one look-up in the common case: hashing a key may be slow
        if len(self._due) == armed:
            if before == due:
                return
            self._due[key] = due
            self._place(key, due)
            self._leave_stale()
        else:
            self._place(key, due)

    def cancel(self, key: K) -> bool:
        """Disarm `key`; return whether it was armed."""
        if self._due.pop(key, None) is None:
            return False
        self._leave_stale()
        return True

    def pop(self, now: int, limit: int | None = None) -> list[K]:
        """Advance to tick `now` and return the keys due by then, in order of their due ticks, disarmed.

        At most `limit` of them, when given; the wheel then stays at the tick of the last one, and the next
        call returns the rest. Keys of one tick come in no promised order. A `now` that has passed gives [].
        """
        popped: list[K] = []
        if now < self._now:
            return popped
        ready, take_due = self._ready, self._due.pop
        while True:
            tick = self._now
            while ready:
                if len(popped) == limit:
                    return popped
                key = ready.popleft()
                due = take_due(key, None)
                if due == tick:
                    popped.append(key)
                else:
                    self._stale -= 1
                    if due is not None:  # the key was moved, and its other entry waits elsewhere
                        self._due[key] = due
            if not self._advance(now):
                return popped

    def next_due(self) -> int | None:
        """Return a tick to `pop` at, never later than the earliest due tick; None if nothing is armed.

        Exact on level 0; above it, the start of the earliest slot. Whoever sleeps until then and pops gets
        nothing at most once for each level between, as the slot's keys cascade.
        """
        due_of = self._due.get
        while self._ready:
            if due_of(self._ready[0]) == self._now:
                return self._now
            self._ready.popleft()
            self._stale -= 1
        for level in self._levels:
            while level.occupied:
                start, slot = level.earliest(self._now)
                while slot:
                    due = due_of(slot[-1])
                    if due is not None and due >> level.shift == start >> level.shift:
                        return start
                    slot.pop()
                    self._stale -= 1
                level.close_earliest()
        return None

    def _place(self, key: K, due: int) -> None:
        """Add an entry for `key` where a timer due at tick `due` belongs, seen from now."""
        # The level is the highest digit in which due and now differ.
        height = ((due ^ self._now | _MASK).bit_length() - 1) // _BITS
        while height >= len(self._levels):
            self._levels.append(_Level(len(self._levels) * _BITS))
        self._levels[height].add(key, due)

    def _advance(self, now: int) -> bool:
        """Move to the start of the earliest slot and empty it downwards, or to `now` if that comes first.

        Returns whether there was such a slot. The ready keys must be gone.
        """
        below: _Level[K] | None = None
        for level in self._levels:
            if level.occupied:
                start, slot = level.earliest(self._now)
                if start > now:
                    break
                self._now = start
                level.close_earliest()
                if below is None:
                    self._ready.extend(slot)
                else:
                    self._cascade(slot, start + (1 << level.shift), below)
                slot.clear()
                return True
            below = level
        self._now = now
        return False

    def _cascade(self, slot: list[K], end: int, below: _Level[K]) -> None:
        """Move the slot's keys one level down; those due at `end` or later have gone elsewhere.

        A key due in the slot's first ticks belongs further down still. It gets there before `pop` returns:
        all levels below are empty, so the slot it is put into is the earliest, and it has begun.
        """
        due_of, add = self._due.get, below.add
        for key in slot:
            due = due_of(key)
            if due is None or due >= end:
                self._stale -= 1
            else:
                add(key, due)

    def _leave_stale(self) -> None:
        """Count one more stale entry; build the wheel anew when they are many.

        O(live entries), at most once in so many moves or cancellations: amortised O(1).
        """
        self._stale += 1
        # Invariant: after a move or a cancellation, stale entries outnumber live ones by no more than a few.
        if self._stale <= len(self._due) + _FEW:
            return
        self._ready.clear()
        self._levels = [_Level(0)]
        self._due = dict(self._due)  # a dictionary from which much was removed shrinks only by being copied
        for key, due in self._due.items():
            self._place(key, due)
        self._stale = 0
