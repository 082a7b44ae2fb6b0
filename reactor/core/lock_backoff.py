"""Decides when to try rows again that other sessions have locked. No I/O, no clock."""

from collections.abc import Collection, Hashable, Iterable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_FIRST_S: Final = 0.02
_SHARE: Final = 0.25
"""A row that has been locked for a second is tried again after a quarter of a second, if _LONGEST_S allows it."""

_LONGEST_S: Final = 0.12
"""With few locked rows, one is tried again at most this long after its lock was released."""

_S_PER_ROW: Final = 0.0002
"""The delay is at least this long for each locked row: a try takes up to 10 µs a row, so it costs at most a
twentieth of a connection."""


class LockBackoff(Generic[K]):
    """The locked rows, each with the time since when it has been locked. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._locked_since: dict[K, float] = {}

    def __len__(self) -> int:
        """Return how many rows are locked."""
        return len(self._locked_since)

    def delay_s(self, rows: Collection[K], now: float) -> float:
        """Record that these rows are locked; return the seconds until all of them must be tried again.

        One delay for all keeps them in one batch. It follows the row that was locked last.
        """
        last = max((self._locked_since.setdefault(row, now) for row in rows), default=now)
        return max(_FIRST_S, min(_LONGEST_S, _SHARE * (now - last)), _S_PER_ROW * len(self._locked_since))

    def forget(self, rows: Iterable[K]) -> None:
        """Record that these rows aren't locked."""
        if self._locked_since:
            for row in rows:
                self._locked_since.pop(row, None)
