"""What the SQL functions answer about uploads: settled, busy, refused, extended."""

from typing import NamedTuple
from uuid import UUID


class Refused(NamedTuple):
    """An upload whose change the database refuses: a constraint or trigger of the app."""

    id: UUID
    message: str
    refused_at: float
    """Seconds since 1970, database clock."""

    is_dead: bool
    """True: the upload is dead now. False: the database refuses that too, and the row hasn't changed."""


class Settled(NamedTuple):
    """A settled upload. Times are seconds since 1970, database clock."""

    due_at: float | None
    """When the upload is due again; None for never."""

    settled_at: float


class Settlement(NamedTuple):
    """The result of a settlement. Uploads whose lease was lost are missing. Keys are ids of uploads, as numbers."""

    settled: dict[int, Settled]
    busy: dict[int, str | None]
    """Uploads to settle again later, because of another session's lock; the value is the server's message, if any."""

    refused: dict[int, Refused]


class Extension(NamedTuple):
    """The ids of uploads whose lease is still held."""

    extended: set[UUID]
    locked: set[UUID]
    """Uploads whose lease couldn't be extended, because another session has locked the row, or the database refuses.
    While a row is locked, no reactor can take the upload over."""
