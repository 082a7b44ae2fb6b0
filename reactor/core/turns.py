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
        self._ids: tuple[int, ...] = (0,)

    def seat(self, me: UUID, others: Iterable[UUID]) -> None:
        """Say who this reactor is, and which others listen."""
        self._ids = tuple(instance.int & _MASK for instance in (me, *others))

    @property
    def is_alone(self) -> bool:
        """Whether no other listens: every turn is this one's."""
        return len(self._ids) == 1

    def delay_s(self, row: int) -> float:
        """Return for how long this reactor leaves the row to others: 0 when it is the first, or alone."""
        if self.is_alone:
            return 0.0
        # in one piece: a sweep asks of 50 000 rows
        products = [(instance ^ row) * _ODD & _MASK for instance in self._ids]
        weights = [(product ^ product >> 32) * _ODD & _MASK for product in products]
        highest, mine = max(weights), weights[0]
        return 0.0 if mine == highest else STEP_S * min(sum(weight > mine for weight in weights), LAST_RANK)
