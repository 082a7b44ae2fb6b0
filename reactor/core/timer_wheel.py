"""A tickless timer wheel over integer ticks. It has no clock: the caller passes the time.

Time is divided into blocks of 4 096 ticks. The keys of a later block wait unordered in the slot of that block.
The wheel sorts them when it enters the block. A heap of block numbers finds the next block that isn't empty.

The dictionary of due ticks decides when a key is due. `arm` and `cancel` never search a slot: when they move or cancel
a key, its old entry stays in the slot and is *stale*. A slot drops its stale entries when they outnumber the live ones.
With a million timers, each takes about 50 bytes in addition to its key and its due tick. The garbage collector doesn't
track timers, so they never cause a collection.
"""

import sys
from collections.abc import Hashable
from itertools import islice
from typing import Final, Generic, TypeVar

from reactor.core.timer_slots import BITS, CurrentBlock, LaterBlocks

K = TypeVar("K", bound=Hashable)

_KEYS_MIN: Final = 64
"""`_shrink` adds this number to the number of keys, so that it doesn't copy a small dictionary."""

_BYTES_PER_KEY_MAX: Final = 1024
"""The dictionary is copied when it takes more bytes per key. A dictionary that has only grown takes at most 120."""


class TimerWheel(Generic[K]):
    """Arms keys, each for one tick; `pop` returns the keys that are due. Starts at tick `now`, at least 0."""

    __slots__ = ("_current", "_later", "due_ticks", "now")

    def __init__(self, now: int = 0) -> None:
        # Invariant: no armed key is due before `now`.
        self.now = now
        """The tick that the wheel has reached: all keys that were due earlier were popped. Read only."""

        self.due_ticks: dict[K, int] = {}
        """Maps each armed key to the tick at which it is due. Read only."""

        # Invariant: a key's live entry is in `_later` exactly if the key is due after the block of `now`.
        self._later: LaterBlocks[K] = LaterBlocks()
        self._current: CurrentBlock[K] = CurrentBlock([], [])

    def __len__(self) -> int:
        return len(self.due_ticks)

    def sample(self, size: int) -> tuple[list[int], int]:
        """Return the due ticks of every n-th key, about `size` of them, and n."""
        step = len(self.due_ticks) // size + 1
        return list(islice(self.due_ticks.values(), None, None, step)), step

    def arm(self, key: K, due: int) -> None:
        """Arm `key` for tick `due`, or move it there if it is armed. A tick before `now` means `now`."""
        due = max(due, self.now)
        armed = len(self.due_ticks)
        before = self.due_ticks.setdefault(key, due)  # one look-up for a new key, because hashing a key may be slow
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
            # after `add`: if a key was moved away and back, its old entry at this tick looks as live as its new one.
            # When stale entries are dropped, both must be there, so that only one is kept
            self._mark_stale(before)

    def cancel(self, key: K) -> bool:
        """Disarm `key` if it is armed; return whether it was armed."""
        due = self.due_ticks.pop(key, None)
        if due is None:
            return False
        if self._mark_stale(due):
            self._shrink()
        return True

    def pop(self, now: int, limit: int | None = None) -> list[K]:
        """Advance to tick `now`; disarm the keys that are due, and return them in order of their due ticks.

        Returns at most `limit` keys (None: all). If more are due, the wheel stays at the tick of the last returned key,
        and the next call returns the rest. The order within a tick is not defined. Returns [] if `now` is in the past.
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
        """Return the tick at which to call `pop`; None if no key is armed. No key is due earlier.

        If a key is due in the current block, returns its tick. Otherwise returns the start of the next block with a
        key; there `pop` may return [].
        """
        if (tick := self._current.first(self.due_ticks.get)) is not None:
            return tick
        block = self._later.first()
        return None if block is None else block << BITS

    def _advance(self, now: int) -> bool:
        """Return whether a key is due at `now` or earlier. Enters later blocks, up to `now`, to find one."""
        while (tick := self._current.first(self.due_ticks.get)) is None:
            block = self._later.first()
            if block is None or block << BITS > now:
                return False
            self.now = block << BITS
            keys = self._later.take(block, self.due_ticks.get)
            self._current = CurrentBlock(keys, [*map(self.due_ticks.__getitem__, keys)])
        return tick <= now

    def _mark_stale(self, due: int) -> bool:
        """Count an entry of tick `due` as stale; return whether stale entries were dropped."""
        if due >> BITS > self.now >> BITS:
            return self._later.mark_stale(due >> BITS, self.due_ticks.get)
        return self._current.mark_stale(self.due_ticks.get)

    def _shrink(self) -> None:
        """Copy the dictionary if most of its memory is unused. After a million timers, that takes about 20 ms."""
        if sys.getsizeof(self.due_ticks) > _BYTES_PER_KEY_MAX * (len(self.due_ticks) + _KEYS_MIN):
            self.due_ticks = dict(self.due_ticks)
