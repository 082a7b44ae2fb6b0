"""The slots of a timer wheel: unordered lists of keys for later blocks, sorted lists for the current block.

An entry in a slot may be out of date. `due_of` returns the tick at which a key is due, None if it isn't armed. See
timer_wheel.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)
DueOf: TypeAlias = Callable[[K], int | None]

BITS: Final = 12
"""A block is `1 << BITS` ticks. Smaller blocks need more slots than the CPU cache holds; larger ones sort slowly."""

_SPARE_LISTS: Final = 2_500
"""Number of lists that are created at the start, for slots: slightly more than the blocks of fifteen minutes."""

_UNUSED_NUMBERS_MAX: Final = 64
"""The heap is rebuilt when it has more than two numbers per slot plus this many."""

_INSERT_RATIO: Final = 32
"""If there are more than this many sorted keys per new key, new keys are inserted one by one; else all are sorted."""


class LaterBlocks(Generic[K]):
    """The slots of later blocks: the slot of a block has an entry for each key that is due in the block."""

    __slots__ = ("_numbers", "_spare", "slots", "stale")

    def __init__(self) -> None:
        # Maps block numbers to slots. Invariant: stale entries don't outnumber live ones; no slot is empty.
        self.slots: dict[int, list[K]] = {}

        # Maps the number of a block to the number of its stale entries. Each key due in the block has one live entry.
        self.stale: dict[int, int] = {}

        # A heap with the number of each slot, and perhaps with numbers of removed slots.
        self._numbers: list[int] = []

        self._spare: list[list[K]] = [[] for _ in range(_SPARE_LISTS)]

    def add(self, key: K, number: int) -> None:
        """Add an entry for `key` to the slot of block `number`."""
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = self._spare.pop() if self._spare else []
            heappush(self._numbers, number)
        slot.append(key)

    def first(self) -> int | None:
        """Return the number of the earliest slot; None if there are no slots."""
        while self._numbers:
            if (number := self._numbers[0]) in self.slots:
                return number
            heappop(self._numbers)
        return None

    def mark_stale(self, number: int, due_of: DueOf[K]) -> bool:
        """Count one more stale entry of a slot. If most entries are stale, drop the stale ones and return True."""
        stale = self.stale[number] = self.stale.get(number, 0) + 1
        if 2 * stale <= len(self.slots[number]):
            return False
        if live := self._live(number, due_of):
            self.slots[number][:] = live
            del self.stale[number]
        else:
            self._remove(number)
        return True

    def take(self, number: int, due_of: DueOf[K]) -> list[K]:
        """Remove a slot and return the keys that are due in its block."""
        keys = self._live(number, due_of) if number in self.stale else self.slots[number][:]
        self._remove(number)
        return keys

    def _live(self, number: int, due_of: DueOf[K]) -> list[K]:
        keys = (key for key in self.slots[number] if (due := due_of(key)) is not None and due >> BITS == number)
        return [*dict.fromkeys(keys)]  # without duplicates: a key that was moved away and back has two entries

    def _remove(self, number: int) -> None:
        self.stale.pop(number, None)
        slot = self.slots.pop(number)
        slot.clear()
        if len(self._spare) < _SPARE_LISTS:
            self._spare.append(slot)
        if len(self._numbers) > 2 * len(self.slots) + _UNUSED_NUMBERS_MAX:
            self.slots = dict(self.slots)  # a dict shrinks only when it is copied
            self._numbers = [*self.slots]
            heapify(self._numbers)


class CurrentBlock(Generic[K]):
    """Two parallel lists: the keys that are due in the current block, and the ticks at which they are due."""

    __slots__ = ("_next", "_sorted", "keys", "stale", "ticks")

    def __init__(self, keys: list[K], ticks: list[int]) -> None:
        self.keys = keys
        self.ticks = ticks

        # Invariant: entries before `_next` were taken; entries from `_next` to `_sorted` are sorted by tick.
        self._next = 0
        self._sorted = 0

        # The number of stale entries from `_next` on. Each key due in the block has one live entry.
        self.stale = 0

    def __len__(self) -> int:
        """Return the number of live and stale entries that weren't taken."""
        return len(self.keys) - self._next

    def add(self, key: K, tick: int) -> None:
        """Add an entry behind all entries of the same tick."""
        self.keys.append(key)
        self.ticks.append(tick)

    def first(self, due_of: DueOf[K]) -> int | None:
        """Return the earliest tick at which a key is due; None if no key is due in this block."""
        if self._sorted < len(self.keys):
            self._sort()
        while self._next < len(self.keys):
            if due_of(self.keys[self._next]) == (tick := self.ticks[self._next]):
                return tick
            self._next += 1
            self.stale -= 1
        return None

    def take(self, until: int, limit: int | None, due_of: DueOf[K]) -> list[K]:
        """Take and return the keys due at tick `until` or earlier, from at most `limit` entries, live or stale."""
        if self._sorted < len(self.keys):
            self._sort()
        begin, end = self._next, bisect_right(self.ticks, until, self._next)
        if limit is not None:
            end = min(end, begin + limit)
        keys = self.keys[begin:end]
        if self.stale:
            ticks = self.ticks[begin:end]
            keys = [*dict.fromkeys(key for key, tick in zip(keys, ticks, strict=True) if due_of(key) == tick)]
            self.stale -= end - begin - len(keys)
        self._next = end
        if 2 * end >= len(self.keys):
            self._drop_taken()
        return keys

    def mark_stale(self, due_of: DueOf[K]) -> bool:
        """Count one more stale entry. If most entries are stale, drop the stale ones and return True."""
        self.stale += 1
        if 2 * self.stale <= len(self):
            return False
        self._drop_taken()
        live = {key: tick for key, tick in zip(self.keys, self.ticks, strict=True) if due_of(key) == tick}
        self.keys, self.ticks = [*live], [*live.values()]
        self._sorted = self.stale = 0
        return True

    def _sort(self) -> None:
        """Sort. Call this only if entries were added since the last sort."""
        added = len(self.keys) - self._sorted
        if added * _INSERT_RATIO < self._sorted - self._next:
            keys, ticks = self.keys[-added:], self.ticks[-added:]
            del self.keys[-added:], self.ticks[-added:]
            for key, tick in zip(keys, ticks, strict=True):
                place = bisect_right(self.ticks, tick, self._next)
                self.keys.insert(place, key)
                self.ticks.insert(place, tick)
        else:
            self._drop_taken()
            # sort positions, because sorting keys by `due_of` would hash every key again
            order = sorted(range(len(self.ticks)), key=self.ticks.__getitem__)
            self.keys = [*map(self.keys.__getitem__, order)]
            self.ticks.sort()
        self._sorted = len(self.keys)

    def _drop_taken(self) -> None:
        """Delete the entries that were taken. O(remaining entries)."""
        del self.keys[: self._next], self.ticks[: self._next]
        self._sorted -= self._next
        self._next = 0
