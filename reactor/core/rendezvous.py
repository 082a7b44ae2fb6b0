"""The order in which reactors try a notified row: rendezvous hashing, computed by each reactor alone.

Every reactor ranks all that listen by the same arithmetic. The first claims at once, the second after STEP_S, and so
on: a row is usually claimed once. The order decides only when a reactor tries; the row's lock decides which gets it.

Source: D. Thaler and C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
"""

from collections.abc import Iterable
from uuid import UUID

STEP_S = 0.25
"""The delay between two ranks: well above the time of a claim under load."""

LAST_RANK = 4
"""Higher ranks wait as long as this one, so that any reactor tries within a second."""

_SHARES = 4093
"""Rows are divided by id into so many shares, each with one order that is computed once: a sweep has 50 000 rows. A
prime, so that every bit of an id counts."""

_MASK = (1 << 64) - 1
_ODD = 0x9E37_79B9_7F4A_7C15
"""2^64 divided by the golden ratio: multiplying by it spreads close numbers far apart."""


class RendezvousOrder:
    """One reactor's rank among all, row by row."""

    def __init__(self) -> None:
        self._members: tuple[int, ...] = ()
        self._delays_s: dict[int, float] = {}
        self.is_alone = True
        """Whether no other reactor listens: then this one ranks first for every row."""

    def set_members(self, me: UUID, others: Iterable[UUID]) -> None:
        """Set this reactor's id, and the ids of the others that listen."""
        members = (me.int & _MASK, *sorted(other.int & _MASK for other in others))
        if members != self._members:
            self._members = members
            self.is_alone = len(members) == 1
            self._delays_s.clear()

    def delay_s(self, row: int) -> float:
        """Return the seconds that this reactor yields the row to others: 0 when it ranks first or is alone."""
        if self.is_alone:
            return 0.0
        share = row % _SHARES
        delay_s = self._delays_s.get(share)
        if delay_s is None:
            mine, *others = (_weight(member, share) for member in self._members)
            delay_s = self._delays_s[share] = STEP_S * min(sum(other > mine for other in others), LAST_RANK)
        return delay_s


def _weight(member: int, share: int) -> int:
    product = (member ^ share) * _ODD & _MASK
    return (product ^ product >> 32) * _ODD & _MASK
