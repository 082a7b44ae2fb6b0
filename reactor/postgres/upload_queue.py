"""The table upload_queue as typed calls: claim, extend, settle, rescue, sweep. No decision is made here."""

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
    """A claimed upload: its token, and the columns of CLAIM_UPLOADS. Times are database seconds since 1970."""

    token: UUID
    """The fence: only a statement with this token may change the row."""

    id: UUID
    due_at: float
    claimed_at: float
    created_at: float
    attempt: int
    """Number of this attempt, from 1, as max_retries counts."""

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
    """Error code of the attempt before; None on the first."""

    ordinal: int
    """Number of this claim among all claims of the row, from 1."""

    waited_since: float | None
    """When the wait that ends with this claim began; None when the claim was repeated."""

    lost_at: float | None
    """When the attempt whose expired lease this claim takes over was claimed; None when there was none."""

    source_id: UUID

    def trail(self) -> Trail:
        """Return what the upload's trace needs."""
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
            self.waited_since,
            self.lost_at,
        )


SweptRow: TypeAlias = tuple[UUID, int, float, float]
"""A row that a sweep lists: id, tenant, when it is due and when it last changed (database seconds since 1970).
A plain tuple, because a sweep may list 50 000."""


class ClaimedUploads(NamedTuple):
    """The result of a claim: the ids by state."""

    uploads: list[Upload]
    waiting: list[tuple[UUID, float]]
    """Ids that aren't due yet, and when they are."""

    exhausted: list[UUID]
    """Ids that have used up their retries."""


class Settled(NamedTuple):
    """A settled upload. Times are database seconds since 1970."""

    due_at: float | None
    """When it is due again; None for never."""

    settled_at: float


class Rescue(NamedTuple):
    """An upload that was due again or given up after its worker was lost. Times are database seconds since 1970."""

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
    """When the attempt that never ended was claimed; None when there was none."""

    rescued_at: float

    def event(self) -> UploadRescued:
        """Return the event to emit."""
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
        )
        return UploadRescued(
            trail=trail,
            verdict=Verdict(self.verdict),
            code=self.code,
            was_leased=self.claimed_at is not None,
            rescued_at=self.rescued_at,
        )


class UploadQueue:
    """The table upload_queue."""

    def __init__(self, database: QueryRunner, *, claims: QueryRunner, lease_s: float) -> None:
        """`claims` runs nothing but claims, so that no other statement delays them."""
        self._database = database
        self._claims = claims
        self._lease = timedelta(seconds=lease_s)
        self._unanswered: dict[int, UUID] = {}
        """The token of each row's last claim, while that claim has had no answer."""

    async def now(self) -> float:
        """Return the database's clock in seconds since 1970, over the connection that claims."""
        [(now_at,)] = await self._claims.call(statements.CLOCK)
        return float(now_at)

    async def claim(self, rows: Sequence[int]) -> ClaimedUploads:
        """Claim those of these rows that are due; rows are UUIDs as numbers. Raises DatabaseUnavailable.

        A claim without an answer may have committed. It is repeated with its own token: then it returns the same rows
        and counts once. With a new token it would wait for its own lease to expire.
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

    async def extend(self, held: Sequence[Upload]) -> set[UUID]:
        """Extend the leases and return the ids that are still held."""
        arguments = ([upload.id for upload in held], [upload.token for upload in held], self._lease)
        return {row[0] for row in await self._database.call(statements.EXTEND_LEASES, arguments)}

    async def settle(self, ended: Sequence[tuple[Upload, Outcome]]) -> dict[int, Settled]:
        """Apply the outcomes; return the settled uploads by id as a number, without those whose lease was lost."""
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
        """Return the ids, as numbers, of those that have left the queue as stored under their outcome's URL.

        For settlements without an answer.
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
        """Release expired leases and bury exhausted uploads, `limit` at most; `ids` None means all."""
        arguments = (None if ids is None else list(ids), limit)
        return [Rescue(*row) for row in await self._database.call(statements.RESCUE_UPLOADS, arguments)]

    async def sweep(self, horizon_s: float, per_tenant: int, limit: int) -> list[SweptRow]:
        """List what is due within the horizon, fair by tenant."""
        arguments = (timedelta(seconds=horizon_s), per_tenant, limit)
        return await self._database.call(statements.SWEEP_UPLOADS, arguments)


def uuid_array(numbers: Iterable[int]) -> str:
    """Return UUIDs as PostgreSQL's array literal. psycopg takes eight times as long for a list of UUID objects."""
    return "{" + ",".join([f"{number:032x}" for number in numbers]) + "}"
