"""Whose turn a row is, where several reactors know of it: an order that all agree on without a word, another by row.

Every reactor that listens ranks itself by the same arithmetic (rendezvous hashing). The first goes at once, the second
a little later, and so on: so a row is claimed once, and the next in line looks only when the one before it may have
failed to. Nobody leads, and nothing is decided by it but when to look: the row's lock decides.

Source: D. Thaler and C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
"""

from collections.abc import Iterable
from uuid import UUID

STEP_S = 0.25
"""How long each waits for the one before it: well above what a claim takes under load."""

LAST_RANK = 4
"""From here on all wait alike: the last of many still comes within a second."""

_MASK = (1 << 64) - 1
_ODD = 0x9E37_79B9_7F4A_7C15
"""2^64 divided by the golden ratio: multiplication by it spreads close numbers far."""


class Turns:
    """One reactor's place in the order."""

    def __init__(self) -> None:
        self._me = 0
        self._others: tuple[int, ...] = ()

    def seat(self, me: UUID, others: Iterable[UUID]) -> None:
        """Say who this reactor is, and which others listen."""
        self._me = me.int & _MASK
        self._others = tuple(other.int & _MASK for other in others)

    @property
    def is_alone(self) -> bool:
        """Whether no other listens: every turn is this one's."""
        return not self._others

    def delay_s(self, row: int) -> float:
        """Return for how long this reactor leaves the row to others: 0 when it is the first, or alone."""
        if not self._others:
            return 0.0
        row &= _MASK
        mine = _weight(self._me, row)
        before = sum(_weight(other, row) > mine for other in self._others)
        return STEP_S * min(before, LAST_RANK)


def _weight(reactor: int, row: int) -> int:
    product = (reactor ^ row) * _ODD & _MASK
    return (product ^ product >> 32) * _ODD & _MASK
