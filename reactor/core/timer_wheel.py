"""A tickless timer wheel over integer ticks. It owns no clock: the caller passes the time.

Time is divided into blocks of 4 096 ticks. A key due in a later block waits in that block's slot, unordered, and is
sorted when the wheel enters the block. A heap of block numbers finds the next block without stepping over empty ones.

The dictionary of due ticks is the truth; an entry in a slot is only a hint. Cancelling or moving a key leaves its old
entry behind as *stale*; a slot drops stale entries when they outnumber the live ones. So `arm` and `cancel` never
search. A timer takes about 100 bytes, none of them tracked by the garbage collector: timers never cause a collection.
"""

import sys
from collections.abc import Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

from reactor.core.timer_slots import BITS, CurrentBlock, LaterBlocks

K = TypeVar("K", bound=Hashable)

_KEYS_MIN: Final = 64
"""With fewer keys than this, the dictionary is small enough not to be copied."""

_BYTES_PER_KEY_MAX: Final = 1024
"""The dictionary is copied when it takes more per key. One that has only grown takes at most 120."""


class TimerWheel(Generic[K]):
    """Keys, each armed for one tick and returned by `pop` when that tick has come; `now` >= 0 is the first tick."""

    __slots__ = ("_current", "_later", "due_ticks", "now")

    def __init__(self, now: int = 0) -> None:
        # Invariant: no armed key is due before now.
        self.now = now
        """The tick that the wheel has reached: all keys due before it have been popped. Read only."""

        self.due_ticks: dict[K, int] = {}
        """The armed keys and the tick at which each is due. Read only."""

        # Invariant: a key is in `_later` exactly when it is due in a later block than now.
        self._later: LaterBlocks[K] = LaterBlocks()
        self._current: CurrentBlock[K] = CurrentBlock([], [])

    def __len__(self) -> int:
        return len(self.due_ticks)

    def sample(self, size: int) -> tuple[list[int], int]:
        """Return the due ticks of about `size` evenly chosen keys, and the number of keys that each stands for."""
        step = len(self.due_ticks) // size + 1
        return list(islice(self.due_ticks.values(), None, None, step)), step

    def arm(self, key: K, due: int) -> None:
        """Make `key` due at tick `due`, armed or not. A past tick counts as `now`, after the keys already due."""
        due = max(due, self.now)
        armed = len(self.due_ticks)
        before = self.due_ticks.setdefault(key, due)  # one look-up in the common case: hashing a key may be slow
        is_move = len(self.due_ticks) == armed
        if is_move:
            if before == due:
                return
            self.due_ticks[key] = due
            if before >> BITS == due >> BITS > self.now >> BITS:
                return
        block = due >> BITS
        if block > self.now >> BITS:
            self._later.add(key, block)
        else:
            self._current.add(key, due)
        if is_move:
            # last: an older entry may already have the new tick, and then one of the two must count as stale
            self._mark_stale(before)

    def cancel(self, key: K) -> bool:
        """Disarm `key`; return whether it was armed."""
        due = self.due_ticks.pop(key, None)
        if due is None:
            return False
        if self._mark_stale(due):
            self._shrink()
        return True

    def pop(self, now: int, limit: int | None = None) -> list[K]:
        """Advance to tick `now`; disarm the keys due by then and return them in order of their due ticks.

        With `limit`, return at most that many: the wheel stays at the tick of the last one, and the next call
        returns the rest. The order within a tick is not defined. A `now` in the past returns [].
        """
        popped: list[K] = []
        if now < self.now:
            return popped
        while self._advance(now):
            if len(popped) == limit:
                return popped
            keys = self._current.take(now, None if limit is None else limit - len(popped), self.due_ticks.get)
            self.now = self.due_ticks[keys[-1]]
            for key in keys:
                del self.due_ticks[key]
            popped += keys
        self.now = now
        self._shrink()
        return popped

    def next_due(self) -> int | None:
        """Return a tick to `pop` at, never later than the earliest due tick; None if no key is armed.

        Exact in the current block, otherwise the start of the next one with a key: at most one `pop` returns [] before
        a key.
        """
        if (tick := self._current.first(self.due_ticks.get)) is not None:
            return tick
        block = self._later.first()
        return None if block is None else block << BITS

    def _advance(self, now: int) -> bool:
        """Enter the block of the earliest key if that key is due by `now`; return whether it is."""
        while (tick := self._current.first(self.due_ticks.get)) is None:
            block = self._later.first()
            if block is None or block << BITS > now:
                return False
            self.now = block << BITS
            keys = self._later.take(block, self.due_ticks.get)
            self._current = CurrentBlock(keys, [*map(self.due_ticks.__getitem__, keys)])
        return tick <= now

    def _mark_stale(self, due: int) -> bool:
        """Count the entry at tick `due` as stale; return whether stale entries were dropped."""
        if due >> BITS > self.now >> BITS:
            return self._later.mark_stale(due >> BITS, self.due_ticks.get)
        return self._current.mark_stale(self.due_ticks.get)

    def _shrink(self) -> None:
        """Copy the dictionary if most of it is unused, to release memory: about 20 ms after a million timers."""
        if sys.getsizeof(self.due_ticks) > _BYTES_PER_KEY_MAX * (len(self.due_ticks) + _KEYS_MIN):
            self.due_ticks = dict(self.due_ticks)
