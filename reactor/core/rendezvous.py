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

_SHARES = 4093
"""Into how many shares rows fall by their ids; a prime, for then each bit of an id counts. All rows of a share have one
order, reckoned once: a sweep asks of 50 000 rows."""

_MASK = (1 << 64) - 1
_ODD = 0x9E37_79B9_7F4A_7C15
"""2^64 divided by the golden ratio: multiplication by it spreads close numbers far."""


class RendezvousOrder:
    """One reactor's place in the order."""

    def __init__(self) -> None:
        self._members: tuple[int, ...] = ()
        self._delays_s: dict[int, float] = {}
        self.is_alone = True
        """Whether no other listens: every turn is this one's."""

    def set_members(self, me: UUID, others: Iterable[UUID]) -> None:
        """Say who this reactor is, and which others listen."""
        members = (me.int & _MASK, *sorted(other.int & _MASK for other in others))
        if members != self._members:
            self._members = members
            self.is_alone = len(members) == 1
            self._delays_s.clear()

    def delay_s(self, row: int) -> float:
        """Return for how long this reactor leaves the row to others: 0 when it is the first, or alone."""
        if self.is_alone:
            return 0.0
        share = row % _SHARES
        delay_s = self._delays_s.get(share)
        if delay_s is None:
            mine, *others = (_weight(instance, share) for instance in self._members)
            delay_s = self._delays_s[share] = STEP_S * min(sum(other > mine for other in others), LAST_RANK)
        return delay_s


def _weight(reactor: int, share: int) -> int:
    product = (reactor ^ share) * _ODD & _MASK
    return (product ^ product >> 32) * _ODD & _MASK
