"""Where the keys of a timer wheel stand until their tick: by block, in no order, or in order in the present block.

An entry is a hint; the dictionary of due ticks, which the wheel owns and `due_of` asks, is the truth. See wheel.py.
"""

from bisect import bisect_right
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)
DueOf: TypeAlias = Callable[[K], int | None]

BITS: Final = 12
"""A block is `1 << BITS` ticks."""

_LISTS: Final = 2_500
"""Lists that are made at once and kept when empty: as many as a horizon of fifteen minutes has blocks, and some."""

_FEW: Final = 64
"""Numbers of slots that are gone: so many may always stay."""

_RATHER_SORT: Final = 32
"""Of so many keys in order, one that joins them is moved to its place; if more join, all are sorted."""


class Blocks(Generic[K]):
    """Slots by number: slot `number` has an entry for each key that is due in that block."""

    __slots__ = ("_numbers", "_spare", "slots", "stale")

    def __init__(self) -> None:
        # Invariant: in each slot, stale entries don't outnumber live ones; no slot is empty.
        self.slots: dict[int, list[K]] = {}

        # Invariant: each key due in a block has one entry in its slot that isn't counted here; all others are.
        self.stale: dict[int, int] = {}

        # Invariant: a heap with the number of each slot; of those no longer there, at most about as many again.
        self._numbers: list[int] = []

        self._spare: list[list[K]] = [[] for _ in range(_LISTS)]

    def add(self, key: K, number: int) -> None:
        """Add an entry for `key` to a slot."""
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = self._spare.pop() if self._spare else []
            heappush(self._numbers, number)
        slot.append(key)

    def first(self) -> int | None:
        """Return the number of the earliest slot."""
        while self._numbers:
            if (number := self._numbers[0]) in self.slots:
                return number
            heappop(self._numbers)
        return None

    def leave(self, number: int, due_of: DueOf[K]) -> bool:
        """Count one more entry as stale; return True if there were too many, and were dropped."""
        stale = self.stale[number] = self.stale.get(number, 0) + 1
        if 2 * stale <= len(self.slots[number]):
            return False
        if live := self._live(number, due_of):
            self.slots[number][:] = live
            del self.stale[number]
        else:
            self._close(number)
        return True

    def take(self, number: int, due_of: DueOf[K]) -> list[K]:
        """Take all keys that are due in a block."""
        keys = self._live(number, due_of) if number in self.stale else self.slots[number][:]
        self._close(number)
        return keys

    def _live(self, number: int, due_of: DueOf[K]) -> list[K]:
        # a key that was moved away and back has two entries, of which either will do
        return [
            *dict.fromkeys(
                key for key in self.slots[number] if (due := due_of(key)) is not None and due >> BITS == number
            )
        ]

    def _close(self, number: int) -> None:
        self.stale.pop(number, None)
        slot = self.slots.pop(number)
        slot.clear()
        if len(self._spare) < _LISTS:
            self._spare.append(slot)
        if len(self._numbers) > 2 * len(self.slots) + _FEW:
            self.slots = dict(self.slots)  # it shrinks only by being copied
            self._numbers = [*self.slots]
            heapify(self._numbers)


class Present(Generic[K]):
    """The keys due in the present block, and their ticks, side by side."""

    __slots__ = ("_next", "_ordered", "keys", "stale", "ticks")

    def __init__(self, keys: list[K], ticks: list[int]) -> None:
        self.keys = keys
        self.ticks = ticks

        # Invariant: what stands before `_next` is gone; from there to `_ordered`, ticks ascend.
        self._next = 0
        self._ordered = 0

        # Invariant: each key due in the block has one entry that isn't counted here; all others to come are.
        self.stale = 0

    def __len__(self) -> int:
        """Return how many entries are to come, live or stale."""
        return len(self.keys) - self._next

    def add(self, key: K, tick: int) -> None:
        """Add an entry, behind those of the same tick."""
        self.keys.append(key)
        self.ticks.append(tick)

    def first(self, due_of: DueOf[K]) -> int | None:
        """Return the earliest tick at which a key is due."""
        if self._ordered < len(self.keys):
            self._order()
        while self._next < len(self.keys):
            if due_of(self.keys[self._next]) == (tick := self.ticks[self._next]):
                return tick
            self._next += 1
            self.stale -= 1
        return None

    def take(self, until: int, limit: int | None, due_of: DueOf[K]) -> list[K]:
        """Take the keys due at tick `until` or before; when limited, so many entries at most, stale ones too."""
        if self._ordered < len(self.keys):
            self._order()
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
            self._let_go()
        return keys

    def leave(self, due_of: DueOf[K]) -> bool:
        """Count one more entry as stale; return True if there were too many, and were dropped."""
        self.stale += 1
        if 2 * self.stale <= len(self):
            return False
        self._let_go()
        live = {key: tick for key, tick in zip(self.keys, self.ticks, strict=True) if due_of(key) == tick}
        self.keys, self.ticks = [*live], [*live.values()]
        self._ordered = self.stale = 0
        return True

    def _order(self) -> None:
        """Move what was added, at least one, to its place."""
        added = len(self.keys) - self._ordered
        if added * _RATHER_SORT < self._ordered - self._next:
            keys, ticks = self.keys[-added:], self.ticks[-added:]
            del self.keys[-added:], self.ticks[-added:]
            for key, tick in zip(keys, ticks, strict=True):
                place = bisect_right(self.ticks, tick, self._next)
                self.keys.insert(place, key)
                self.ticks.insert(place, tick)
        else:
            self._let_go()
            # not the keys by their ticks: that would hash each key once more
            order = sorted(range(len(self.ticks)), key=self.ticks.__getitem__)
            self.keys = [*map(self.keys.__getitem__, order)]
            self.ticks.sort()
        self._ordered = len(self.keys)

    def _let_go(self) -> None:
        """Drop what is gone. O(entries to come)."""
        del self.keys[: self._next], self.ticks[: self._next]
        self._ordered -= self._next
        self._next = 0
