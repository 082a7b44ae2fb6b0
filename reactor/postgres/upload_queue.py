"""Typed calls for the table upload_queue: claim, extend, settle, rescue, sweep. The SQL functions decide."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID, uuid4

from reactor.core.errors import DatabaseUnavailable
from reactor.core.events import UploadRescued
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import Trail
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner


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


SweptRow: TypeAlias = tuple[UUID, int, float, float]
"""A row that a sweep lists: id, tenant, due time, and the earliest time at which a reactor could have scheduled it.
Times are seconds since 1970, database clock. A plain tuple, because a sweep may list 50 000 rows."""


class ClaimedUploads(NamedTuple):
    """The result of a claim. Uploads that need no attempt any more are missing."""

    uploads: list[Upload]
    waiting: list[tuple[UUID, float]]
    """Ids of uploads that aren't due, or that another reactor has claimed, and when to claim each again."""

    exhausted: list[UUID]
    """Ids of due uploads that have no attempts left."""


class Settled(NamedTuple):
    """A settled upload. Times are seconds since 1970, database clock."""

    due_at: float | None
    """When the upload is due again; None for never."""

    settled_at: float


class Rescue(NamedTuple):
    """An upload that `rescue` has made due again or dead. Times are seconds since 1970, database clock."""

    id: UUID
    verdict: str
    """'retry' or 'dead'."""

    code: str | None
    traceparent: str
    attempt: int
    ordinal: int
    bucket: str
    byte_size: int
    created_at: float
    claimed_at: float | None
    """When the lost attempt was claimed; None if it was waiting, with no attempts left."""

    rescued_at: float
    user_id: UUID

    def event(self) -> UploadRescued:
        """Return the event of this rescue."""
        claimed_at = self.claimed_at or self.rescued_at
        trail = Trail(
            upload_id=self.id,
            traceparent=self.traceparent,
            bucket=self.bucket,
            size_bytes=self.byte_size,
            attempt=self.attempt,
            ordinal=self.ordinal,
            created_at=self.created_at,
            due_at=claimed_at,
            claimed_at=claimed_at,
            user_id=self.user_id,
        )
        return UploadRescued(
            trail=trail,
            verdict=Verdict(self.verdict),
            code=self.code,
            was_leased=self.claimed_at is not None,
            rescued_at=self.rescued_at,
        )


class UploadQueue:
    """Calls the SQL functions of the table upload_queue."""

    def __init__(self, database: QueryRunner, *, claims: QueryRunner, lease_s: float) -> None:
        """`claims` runs only claims and `now`, so that no other statement delays a claim."""
        self._database = database
        self._claims = claims
        self._lease = timedelta(seconds=lease_s)
        self._unanswered: dict[int, UUID] = {}
        """Maps each row whose last claim got no answer to the token of that claim."""

    async def now(self) -> float:
        """Return the database's clock in seconds since 1970, over the connection that claims."""
        [(now_at,)] = await self._claims.call(statements.CLOCK)
        return float(now_at)

    async def claim(self, rows: Sequence[int]) -> ClaimedUploads:
        """Claim the rows that are due; `rows` are UUIDs as numbers. Raises DatabaseUnavailable.

        A claim without an answer may have committed. The next claim of its rows has the same token, so it returns the
        rows again, and the attempt is counted once. With a new token, the rows would wait until their leases end.
        """
        fresh = uuid4()
        rows_by_token: dict[UUID, list[int]] = {}
        for row in rows:
            rows_by_token.setdefault(self._unanswered.get(row, fresh), []).append(row)
        claimed = ClaimedUploads([], [], [])
        try:
            for token, some in rows_by_token.items() or [(fresh, [])]:
                for answer in await self._claims.call(statements.CLAIM_UPLOADS, (uuid_array(some), token, self._lease)):
                    state = answer[0]
                    if state == "claimed":
                        claimed.uploads.append(Upload._make((token, *answer[1:])))
                    elif state == "waiting":
                        claimed.waiting.append(answer[1:3])
                    else:
                        claimed.exhausted.append(answer[1])
        except DatabaseUnavailable:
            for token, some in rows_by_token.items():
                self._unanswered |= dict.fromkeys(some, token)
            raise
        for row in rows if self._unanswered else ():
            self._unanswered.pop(row, None)
        return claimed

    async def extend(self, uploads: Sequence[Upload]) -> set[UUID]:
        """Extend the leases; return the ids of the uploads whose lease this reactor still has."""
        arguments = ([upload.id for upload in uploads], [upload.token for upload in uploads], self._lease)
        return {row[0] for row in await self._database.call(statements.EXTEND_LEASES, arguments)}

    async def settle(self, ended: Sequence[tuple[Upload, Outcome]]) -> dict[int, Settled]:
        """Settle the attempts; return the settled uploads by id (as a number), without uploads whose lease was lost."""
        rows = await self._database.call(
            statements.SETTLE_UPLOADS,
            (
                uuid_array(upload.id.int for upload, _ in ended),
                uuid_array(upload.token.int for upload, _ in ended),
                [outcome.verdict.value for _, outcome in ended],
                [outcome.delay_s for _, outcome in ended],
                [outcome.code for _, outcome in ended],
                [outcome.message for _, outcome in ended],
                [outcome.storage_url for _, outcome in ended],
            ),
        )
        return {row[0].int: Settled._make(row[1:]) for row in rows}

    async def confirm_stored(self, ended: Sequence[tuple[Upload, Outcome]]) -> set[int]:
        """After a settlement without an answer, return the ids (as numbers) of the uploads that were settled as stored.

        Such an upload has left the queue, and its source has the URL of the outcome.
        """
        stored = [(upload, outcome.storage_url) for upload, outcome in ended if outcome.storage_url is not None]
        if not stored:
            return set()
        arguments = (
            [upload.id for upload, _ in stored],
            [upload.source_id for upload, _ in stored],
            [url for _, url in stored],
        )
        return {row[0].int for row in await self._database.call(statements.CONFIRM_STORED, arguments)}

    async def rescue(self, ids: Sequence[UUID] | None, limit: int) -> list[Rescue]:
        """Make uploads with an expired lease due again, or dead if no attempts are left; at most `limit`.

        `ids` None means all uploads. Also makes due uploads dead that have no attempts left.
        """
        arguments = (None if ids is None else list(ids), limit)
        return [Rescue(*row) for row in await self._database.call(statements.RESCUE_UPLOADS, arguments)]

    async def sweep(self, horizon_s: float, per_tenant: int, limit: int) -> list[SweptRow]:
        """List uploads that are due within `horizon_s`, or that are leased.

        Lists at most `per_tenant` waiting uploads of each tenant, `limit` waiting and `limit` leased uploads.
        """
        arguments = (timedelta(seconds=horizon_s), per_tenant, limit)
        return await self._database.call(statements.SWEEP_UPLOADS, arguments)


def uuid_array(numbers: Iterable[int]) -> str:
    """Return an array literal of UUIDs. For a list of UUID objects, psycopg takes eight times as long."""
    return "{" + b"".join([number.to_bytes(16) for number in numbers]).hex(",", 16) + "}"
