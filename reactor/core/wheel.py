"""A tickless timer wheel of two wheels, over integer ticks. It owns no clock: the caller brings the time.

The far wheel has a slot for each *block* of 1024 ticks, the near wheel one for each tick of the present block.
A key waits in its block's slot; as the present enters the block, the keys move to the slots of their ticks. So
a key is placed twice in its life, however far away it is due, where a heap of a million steps up and down twenty
levels with a cache miss at most. With a tick of 1 ms, of 1 000 000 timers over ten minutes some 1700 move at a
time, in 2 ms. (Why not a third wheel of blocks of blocks: no slot of a higher wheel is ever small, and its million
keys would move at once. Why 1024: with smaller blocks more slots compete for the cache, a larger one is a longer
pause.)

Slots are made where keys are, at whatever distance, and a heap of their numbers tells the earliest: there is
nothing to step over while nothing is due. The heap costs O(log slots), but once a slot, not once a timer: fifteen
minutes are 900 slots, shared by all timers. Only one that is alone in its second pays for it by itself, with some
200 bytes and a dozen comparisons.

The dictionary of due ticks is the truth; an entry in a slot is a hint. Cancelling or moving a key leaves its entry
where it was, *stale*. Each slot counts those and drops them once they outnumber the live ones, in a walk that the
cancellations before it have paid for. So `cancel` and `arm` never search, no walk is longer than a slot, and a
slot that is there has a key to wake for.

A timer costs a place in the dictionary, a pointer in a slot and, unless the caller shares it, an int: some 100
bytes. None of these is an object that Python's garbage collector tracks, and the slots' lists are used again:
neither arming nor popping starts a collection, nor gives one more objects to walk.
"""

import sys
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_BITS: Final = 10
"""A block is `1 << _BITS` ticks."""

_SPARE: Final = 4 << _BITS
"""Empty lists that are kept at most: as many as fifteen minutes and the present block use, twice over."""

_FEW: Final = 64
"""Numbers or keys that are never worth making anything smaller for."""

_WASTEFUL_BYTES: Final = 1024
"""A key's share of the dictionary above which it is made anew; one that has only grown takes at most 120."""


class _Slots(Generic[K]):
    """One of the two wheels: slot `number` has an entry for each key due in `number << shift` or the ticks after."""

    __slots__ = ("_numbers", "_spare", "shift", "slots", "stale")

    def __init__(self, shift: int, spare: list[list[K]]) -> None:
        self.shift = shift
        """A slot spans `1 << shift` ticks."""

        # Invariant: in each slot, stale entries don't outnumber live ones; no slot is empty.
        self.slots: dict[int, list[K]] = {}

        # Invariant: each armed key has one entry, in its slot, that isn't counted here; all others are.
        self.stale: dict[int, int] = {}

        # Invariant: a heap with the number of each slot; of those no longer there, at most about as many again.
        self._numbers: list[int] = []

        self._spare = spare

    def add(self, key: K, number: int) -> None:
        """Add an entry for `key` to a slot."""
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = self._spare.pop() if self._spare else []
            heappush(self._numbers, number)
        slot.append(key)

    def first(self) -> int | None:
        """Return the number of the earliest slot."""
        numbers = self._numbers
        while numbers:
            if (number := numbers[0]) in self.slots:
                return number
            heappop(numbers)
        return None

    def leave(self, number: int, due_of: Callable[[K], int | None], entries: int = 1) -> bool:
        """Count `entries` more as stale; return True if there were too many, and were dropped."""
        stale = self.stale[number] = self.stale.get(number, 0) + entries
        if 2 * stale <= len(self.slots[number]):
            return False
        self.drop_stale(number, due_of)
        return True

    def drop_stale(self, number: int, due_of: Callable[[K], int | None]) -> None:
        """Drop the slot's stale entries, and the slot with the last of them. O(entries), if any is stale."""
        if self.stale.pop(number, 0):
            slot, shift = self.slots[number], self.shift
            # a key that was moved away and back has two entries, of which either will do
            slot[:] = dict.fromkeys(key for key in slot if (due := due_of(key)) is not None and due >> shift == number)
            if not slot:
                self.close(number)

    def close(self, number: int) -> None:
        """Drop the slot with all its entries."""
        self.stale.pop(number, None)
        slot = self.slots.pop(number)
        slot.clear()
        if len(self._spare) < _SPARE:
            self._spare.append(slot)
        if len(self._numbers) > 2 * len(self.slots) + _FEW:
            self._numbers = [*self.slots]
            heapify(self._numbers)


class Wheel(Generic[K]):
    """Keys, each armed for one tick, given back once that tick has come.

    `now` is the tick at which the wheel starts; it must be at least 0.
    """

    __slots__ = ("_blocks", "_due", "_now", "_ticks")

    def __init__(self, now: int = 0) -> None:
        if now < 0:
            raise ValueError(f"now must be at least 0, not {now}")

        # Invariant: no armed key is due before now.
        self._now = now
        self._due: dict[K, int] = {}

        # Invariant: a key is in `_blocks` exactly when it is due in a later block than now.
        spare: list[list[K]] = [[] for _ in range(1 << _BITS)]
        self._ticks: _Slots[K] = _Slots(0, spare)
        self._blocks: _Slots[K] = _Slots(_BITS, spare)

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

    def arm(self, key: K, due: int) -> None:
        """Make `key` due at tick `due`, moving it if it is armed already.

        Any int will do. A tick that has passed is moved up to `now`: the key is due at once, behind those
        that have been waiting.
        """
        due = max(due, self._now)
        slots = self._slots(due)
        number = due >> slots.shift
        armed = len(self._due)
        before = self._due.setdefault(key, due)  # one look-up in the common case: hashing a key may be slow
        if len(self._due) == armed:
            self._due[key] = due
            left = self._slots(before)
            if left is slots and before >> left.shift == number:
                return
            left.leave(before >> left.shift, self._due.get)
        slots.add(key, number)

    def cancel(self, key: K) -> bool:
        """Disarm `key`; return whether it was armed."""
        due = self._due.pop(key, None)
        if due is None:
            return False
        slots = self._slots(due)
        if slots.leave(due >> slots.shift, self._due.get):
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
        ticks, due_of = self._ticks, self._due.get
        while (tick := self._reach(now)) is not None:
            if len(popped) == limit:
                return popped
            slot = ticks.slots[tick]
            keys = entries = slot if limit is None else slot[: limit - len(popped)]
            if tick in ticks.stale:
                keys = [*dict.fromkeys(key for key in entries if due_of(key) == tick)]
            popped += keys
            for key in keys:
                del self._due[key]
            if len(entries) == len(slot):
                ticks.close(tick)
            else:
                del slot[: len(entries)]
                ticks.leave(tick, due_of, len(keys) - len(entries))
        self._now = now
        self._shrink()
        return popped

    def next_due(self) -> int | None:
        """Return a tick to `pop` at, never later than the earliest due tick; None if nothing is armed.

        Exact in the present block; beyond it, the start of the earliest block. Whoever sleeps until then and
        pops gets nothing at most once, as the block's keys move to their ticks.
        """
        if (tick := self._ticks.first()) is not None:
            return tick
        block = self._blocks.first()
        return None if block is None else block << _BITS

    def _slots(self, due: int) -> _Slots[K]:
        """Return the wheel that has, seen from now, the slot of a key due at tick `due`."""
        return self._blocks if due >> _BITS > self._now >> _BITS else self._ticks

    def _reach(self, now: int) -> int | None:
        """Move to the earliest tick with a slot, if that is at `now` or before, and return it."""
        tick = self._ticks.first()
        if tick is None:
            block = self._blocks.first()
            if block is None or block << _BITS > now:
                return None
            self._enter(block)
            tick = self._ticks.first()
        if tick is None or tick > now:
            return None
        self._now = tick
        return tick

    def _enter(self, block: int) -> None:
        """Move to the start of a block, and its keys to their ticks. The keys before must be gone."""
        self._now = block << _BITS
        self._blocks.drop_stale(block, self._due.get)
        keys, add = self._blocks.slots[block], self._ticks.add
        for key, due in zip(keys, map(self._due.__getitem__, keys), strict=True):
            add(key, due)
        self._blocks.close(block)

    def _shrink(self) -> None:
        """Make the dictionary anew if much was removed: it shrinks only by being copied."""
        if sys.getsizeof(self._due) > _WASTEFUL_BYTES * (len(self._due) + _FEW):
            self._due = dict(self._due)
