"""Ranks the reactors for each notified row, by rendezvous hashing.

Each reactor computes the same rank of every listening reactor, without communication. The first reactor tries to claim
the row immediately, the second after STEP_S, and so on, so usually only the first reactor tries. The rank sets only the
time at which a reactor tries; the lock on the row decides which reactor claims the row.

Source: D. Thaler and C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
"""

from collections.abc import Iterable
from uuid import UUID

STEP_S = 0.25
"""The delay between two ranks, much longer than a claim takes under load."""

LAST_RANK = 4
"""Reactors of higher ranks wait as long as a reactor of this rank, so every reactor tries after a second at most."""

_SHARES = 4093
"""Number of shares into which ids are divided. All rows of a share have the same order of reactors, so it is computed
once, and not for each of a sweep's 50 000 rows. A prime, so that every bit of an id influences the share."""

_MASK = (1 << 64) - 1
_ODD = 0x9E37_79B9_7F4A_7C15
"""2^64 divided by the golden ratio. Multiplication by this number spreads close numbers far apart."""


class RendezvousOrder:
    """Calculates the rank of one reactor for each row."""

    def __init__(self) -> None:
        self._members: tuple[int, ...] = ()
        self._delays_s: dict[int, float] = {}
        self.is_alone = True
        """Whether no other reactor listens. Then this reactor ranks first for every row."""

    def set_members(self, me: UUID, others: Iterable[UUID]) -> None:
        """Set this reactor's id, and the ids of the other listening reactors."""
        members = (me.int & _MASK, *sorted(other.int & _MASK for other in others))
        if members != self._members:
            self._members = members
            self.is_alone = len(members) == 1
            self._delays_s.clear()

    def delay_s(self, row: int) -> float:
        """Return how many seconds this reactor waits before it tries the row: 0 if it ranks first or is alone."""
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
