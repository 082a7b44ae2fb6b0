"""The answers of the SQL functions about uploads: claimed, settled, busy, refused, extended."""

from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import UUID

from reactor.core.trace_context import Trail


class Held(NamedTuple):
    """The buckets and spools whose uploads must not be claimed, because they refuse everybody."""

    buckets: Sequence[str] = ()
    spools: Sequence[str] = ()


NOTHING_HELD: Final = Held()


class Upload(NamedTuple):
    """A claimed upload: its token, and the columns of CLAIM_UPLOADS. Times are seconds since 1970, database clock."""

    token: UUID
    """The fencing token: only a statement with this token may settle the attempt or extend its lease."""

    id: UUID
    due_at: float
    claimed_at: float
    created_at: float
    attempt: int
    """Number of this attempt, from 1. The last attempt has the number `max_retries`."""

    max_retries: int
    byte_size: int
    bucket: str
    object_path: str
    content_hash: str | None
    spool: str
    temp_file_path: str | None
    mime_type: str | None
    traceparent: str
    last_code: str | None
    """Error code of the last failed attempt; None if no attempt has failed."""

    ordinal: int
    """Number of this claim among all claims of the row, from 1."""

    waited_since: float | None
    """Start of the wait that this claim ends; None if the claim was repeated."""

    lost_at: float | None
    """If this claim takes over an expired lease, the time at which the lost attempt was claimed; else None."""

    source_id: UUID
    user_id: UUID

    def trail(self) -> Trail:
        """Return the data for the upload's trace."""
        return Trail(
            self.id,
            self.traceparent,
            self.bucket,
            self.byte_size,
            self.attempt,
            self.ordinal,
            self.created_at,
            self.due_at,
            self.claimed_at,
            self.user_id,
            self.waited_since,
            self.lost_at,
        )


class Refused(NamedTuple):
    """An upload whose change the database refuses: a constraint or trigger of the app."""

    id: UUID
    message: str
    refused_at: float
    """Seconds since 1970, database clock."""

    is_dead: bool
    """True: the upload is dead now. False: the database refuses that too, and the row hasn't changed."""


class ClaimedUploads(NamedTuple):
    """The result of a claim. Uploads that need no attempt any more are missing."""

    uploads: list[Upload]
    waiting: list[tuple[UUID, float]]
    """Ids of uploads that aren't due, or that another reactor has claimed, and when to claim each again."""

    locked: list[UUID]
    """Ids of due uploads whose rows other sessions have locked."""

    exhausted: list[UUID]
    """Ids of due uploads that have no attempts left."""

    held: list[tuple[UUID, str, str]]
    """Due uploads in a held bucket or spool: id, bucket and spool of each."""

    refused: list[Refused]


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
