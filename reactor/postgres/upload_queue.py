"""The reactor's tables as typed calls: claim, extend, settle, rescue, sweep, expire. No decisions are made here."""

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID

from attrs import frozen

from reactor.core.events import UploadRescued
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import Trail
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.postgres.uuid_array import Uuids


class Upload(NamedTuple):
    """A claimed upload: its token, and what CLAIM_UPLOADS answers. Times are the database's seconds since 1970."""

    token: UUID
    """The fence: what this claim must show to change the row."""

    id: UUID
    due_at: float
    claimed_at: float
    created_at: float
    attempt: int
    """From 1; the one that begins now."""

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
    """From 1: the number of this claim among all that were ever made of the row."""

    waited_since: float | None
    """When the wait began that ended with this claim; None when the claim was repeated."""

    lost_at: float | None
    """When the attempt was claimed that is taken over from; None: from nobody."""

    source_id: UUID

    def trail(self) -> Trail:
        """Return what the upload's trace needs to know, and no more."""
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


Row: TypeAlias = tuple[UUID, int, float, float]
"""A row that a sweep found: id, tenant, when it is due and when it last changed (the database's seconds since 1970).
No class of ours: there may be 50 000 of them.
"""


@frozen(kw_only=True)
class Claimed:
    """What became of a batch of ids."""

    uploads: list[Upload]
    waiting: list[tuple[UUID, float]]
    """Ids to look at again, and when."""

    exhausted: list[UUID]
    """Ids whose tries are used up."""


class Settled(NamedTuple):
    """A settled upload. Times are the database's seconds since 1970."""

    due_at: float | None
    """When it is due again; None for never."""

    settled_at: float


class Rescue(NamedTuple):
    """An upload that nobody worked on any more, and what became of it. Times are the database's seconds since 1970."""

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
    """When the attempt was claimed that never ended; None where there was none."""

    rescued_at: float

    def told(self) -> UploadRescued:
        """Return the event that tells of it."""
        claimed_at = self.rescued_at if self.claimed_at is None else self.claimed_at
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
        """`claims` is a connection that does nothing else: nothing stands between a notification and its claim."""
        self._database = database
        self._claims = claims
        self._lease = timedelta(seconds=lease_s)

    async def now(self) -> float:
        """Return what the database's clock says, in seconds since 1970, over the connection that claims."""
        [(now_at,)] = await self._claims.call(statements.CLOCK)
        return float(now_at)

    async def claim(self, ids: Sequence[UUID], token: UUID) -> Claimed:
        """Claim those that are due. Repeating it with the same token gives the same uploads again."""
        rows = await self._claims.call(statements.CLAIM_UPLOADS, (ids, token, self._lease))
        claimed = Claimed(uploads=[], waiting=[], exhausted=[])
        for row in rows:
            state = row[0]
            if state == "claimed":
                claimed.uploads.append(Upload._make((token, *row[1:])))
            elif state == "waiting":
                claimed.waiting.append(row[1:3])
            else:
                claimed.exhausted.append(row[1])
        return claimed

    async def extend(self, held: Sequence[Upload]) -> set[UUID]:
        """Extend the leases and return the ids that are still held."""
        arguments = ([u.id for u in held], [u.token for u in held], self._lease)
        return {row[0] for row in await self._database.call(statements.EXTEND_LEASES, arguments)}

    async def settle(self, ended: Sequence[tuple[Upload, Outcome]]) -> dict[int, Settled]:
        """Apply the outcomes; return what was settled by its id as a number, without the lost."""
        rows = await self._database.call(
            statements.SETTLE_UPLOADS,
            (
                Uuids([upload.id.int for upload, _ in ended]),
                Uuids([upload.token.int for upload, _ in ended]),
                [outcome.verdict.value for _, outcome in ended],
                [outcome.delay_s for _, outcome in ended],
                [outcome.code for _, outcome in ended],
                [outcome.message for _, outcome in ended],
                [outcome.storage_url for _, outcome in ended],
            ),
        )
        return {row[0].int: Settled._make(row[1:]) for row in rows}

    async def confirm_stored(self, settled: Sequence[tuple[Upload, str]]) -> set[UUID]:
        """Return the ids of those that have left the queue, stored under the URL given: for settlements unanswered."""
        arguments = (
            [upload.id for upload, _ in settled],
            [upload.source_id for upload, _ in settled],
            [url for _, url in settled],
        )
        return {row[0] for row in await self._database.call(statements.CONFIRM_STORED, arguments)}

    async def rescue(self, ids: Sequence[UUID] | None, limit: int) -> list[Rescue]:
        """Bring back what nobody works on any more."""
        arguments = (None if ids is None else list(ids), limit)
        return [Rescue(*row) for row in await self._database.call(statements.RESCUE_UPLOADS, arguments)]

    async def sweep(self, horizon_s: float, per_tenant: int, limit: int) -> list[Row]:
        """List what is due within the horizon, fair by tenant."""
        arguments = (timedelta(seconds=horizon_s), per_tenant, limit)
        return await self._database.call(statements.SWEEP_UPLOADS, arguments)


class Expiry(NamedTuple):
    """What became of one run: failed with `code`, or alive until `due_at`."""

    id: UUID
    due_at: float | None
    code: str | None
    late_s: float | None
    traceparent: str | None
    failed_at: float | None
    """Database seconds since 1970; None while it is alive."""


class Runs:
    """The running rows of interpretation_runs."""

    def __init__(self, database: QueryRunner, *, heartbeat_timeout_s: float) -> None:
        self._database = database
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)

    async def expire(self, ids: Sequence[UUID]) -> list[Expiry]:
        """Fail those whose deadline has passed, and tell when the others are due."""
        rows = await self._database.call(statements.EXPIRE_RUNS, (list(ids), self._heartbeat_timeout))
        return [Expiry(*row) for row in rows]

    async def sweep(self, horizon_s: float, limit: int) -> list[Row]:
        """List the runs whose deadline is within the horizon, the earliest first."""
        arguments = (timedelta(seconds=horizon_s), self._heartbeat_timeout, limit)
        return await self._database.call(statements.SWEEP_RUNS, arguments)
