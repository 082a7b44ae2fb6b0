"""Typed calls for the table upload_queue: claim, extend, settle, rescue, sweep. The SQL functions decide."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeAlias
from uuid import UUID, uuid4

from reactor.core.errors import DatabaseFailure, DatabaseRefused
from reactor.core.events import UploadRescued
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import Trail
from reactor.postgres import statements
from reactor.postgres.connection import QueryRunner
from reactor.postgres.statement_parts import StatementParts
from reactor.postgres.upload_answers import (
    NOTHING_HELD,
    ClaimedUploads,
    Extension,
    Held,
    Refused,
    Settled,
    Settlement,
    Upload,
)

SweptRow: TypeAlias = tuple[UUID, int, float, float]
"""A row that a sweep lists: id, tenant, due time, and the earliest time at which a reactor could have scheduled it.
Times are seconds since 1970, database clock. A plain tuple, because a sweep may list 50 000 rows."""


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
        self._parts = StatementParts()

    async def now(self) -> float:
        """Return the database's clock in seconds since 1970, over the connection that claims."""
        [(now_at,)] = await self._claims.call(statements.CLOCK)
        return float(now_at)

    async def claim(self, rows: Sequence[int], held: Held = NOTHING_HELD) -> ClaimedUploads:
        """Claim the rows that are due, without held ones; `rows` are UUIDs as numbers. Raises DatabaseUnavailable.

        A claim without an answer may have committed. The next claim of its rows has the same token, so it returns the
        rows again, and the attempt is counted once. With a new token, the rows would wait until their leases end.
        """
        fresh = uuid4()
        rows_by_token: dict[UUID, list[int]] = {}
        for row in rows:
            rows_by_token.setdefault(self._unanswered.get(row, fresh), []).append(row)
        claimed = ClaimedUploads([], [], [], [], [], [])
        try:
            for token, some in rows_by_token.items() or [(fresh, [])]:
                await self._claim(some, token, held, claimed)
        except DatabaseFailure:
            for token, some in rows_by_token.items():
                self._unanswered |= dict.fromkeys(some, token)
            raise
        for row in rows if self._unanswered else ():
            self._unanswered.pop(row, None)
        return claimed

    async def _claim(self, rows: Sequence[int], token: UUID, held: Held, claimed: ClaimedUploads) -> None:
        """Claim these rows and append the answers to `claimed`."""

        async def claim(some: Sequence[int]) -> None:
            arguments = uuid_array(some), token, self._lease
            if held.buckets or held.spools:
                answers = await self._claims.call(statements.CLAIM_UPLOADS_EXCEPT, (*arguments, *held))
            else:
                answers = await self._claims.call(statements.CLAIM_UPLOADS, arguments)
            for answer in answers:
                state = answer[0]
                if state == "claimed":
                    claimed.uploads.append(Upload._make((token, *answer[1:])))
                elif state == "waiting":
                    claimed.waiting.append(answer[1:3])
                elif state == "locked":
                    claimed.locked.append(answer[1])
                elif state == "held":
                    claimed.held.append((answer[1], answer[8], answer[11]))
                else:
                    claimed.exhausted.append(answer[1])

        for row, failure in await self._parts.call(claim, rows):
            upload_id = UUID(int=row)
            refused = await self._refuse(upload_id, failure)
            if refused is None:
                claimed.locked.append(upload_id)
            else:
                claimed.refused.append(refused)

    async def _refuse(self, upload_id: UUID, failure: DatabaseFailure) -> Refused | None:
        """Mark a due upload as dead that the database refused to change; return None if it is only locked."""
        if not isinstance(failure, DatabaseRefused):
            return None
        try:
            [(state, message, refused_at)] = await self._database.call(
                statements.REFUSE_UPLOAD, (upload_id, None, failure.sqlstate, str(failure))
            )
        except DatabaseRefused:
            return Refused(upload_id, str(failure), 0.0, is_dead=False)
        return Refused(upload_id, message, refused_at, state == "refused") if state in {"refused", "stuck"} else None

    async def extend(self, uploads: Sequence[Upload]) -> Extension:
        """Extend the leases. Uploads whose lease this reactor has lost are missing in the answer."""
        extension = Extension(set(), set())

        async def extend(some: Sequence[Upload]) -> None:
            arguments = ([upload.id for upload in some], [upload.token for upload in some], self._lease)
            for upload_id, is_extended in await self._database.call(statements.EXTEND_LEASES, arguments):
                (extension.extended if is_extended else extension.locked).add(upload_id)

        refused = await self._parts.call(extend, uploads)
        extension.locked.update(upload.id for upload, _ in refused)
        return extension

    async def settle(self, ended: Sequence[tuple[Upload, Outcome]], trusted: int) -> Settlement:
        """Settle the attempts. The first `trusted` of them are settled together, each of the others alone."""
        settlement = Settlement({}, {}, {})
        arguments = (
            uuid_array(upload.id.int for upload, _ in ended),
            uuid_array(upload.token.int for upload, _ in ended),
            [outcome.verdict.value for _, outcome in ended],
            [outcome.delay_s for _, outcome in ended],
            [outcome.code for _, outcome in ended],
            [outcome.message for _, outcome in ended],
            [outcome.storage_url for _, outcome in ended],
            self._parts.size(),
            trusted,
        )
        for row_id, state, due_at, settled_at, message in await self._database.call(
            statements.SETTLE_UPLOADS, arguments
        ):
            if state == "settled":
                settlement.settled[row_id.int] = Settled(due_at, settled_at)
            elif state == "busy":
                settlement.busy[row_id.int] = message
            else:
                settlement.refused[row_id.int] = Refused(row_id, message, settled_at, is_dead=state == "refused")
        if settlement.refused:
            self._parts.record_refusal()
        return settlement

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

    async def rescue(self, limit: int) -> list[Rescue]:
        """Make uploads with an expired lease due again, or dead if no attempts are left; at most `limit`.

        Also makes due uploads dead that have no attempts left.
        """
        return [Rescue(*row) for row in await self._database.call(statements.RESCUE_UPLOADS, (None, limit))]

    async def bury(self, ids: Sequence[UUID]) -> tuple[list[Rescue], list[Refused]]:
        """Rescue these uploads only. An upload in neither list is locked, or needs no rescue any more."""
        rescued: list[Rescue] = []

        async def rescue(some: Sequence[UUID]) -> None:
            arguments = (list(some), len(some))
            rescued.extend([Rescue(*row) for row in await self._database.call(statements.RESCUE_UPLOADS, arguments)])

        refused = [await self._refuse(*each) for each in await self._parts.call(rescue, ids)]
        return rescued, [each for each in refused if each is not None]

    async def sweep(self, horizon_s: float, per_tenant: int, limit: int) -> list[SweptRow]:
        """List uploads that are due within `horizon_s`, or that are leased.

        Lists at most `per_tenant` waiting uploads of each tenant, `limit` waiting and `limit` leased uploads.
        """
        arguments = (timedelta(seconds=horizon_s), per_tenant, limit)
        return await self._database.call(statements.SWEEP_UPLOADS, arguments)


def uuid_array(numbers: Iterable[int]) -> str:
    """Return an array literal of UUIDs. For a list of UUID objects, psycopg takes eight times as long."""
    return "{" + b"".join([number.to_bytes(16) for number in numbers]).hex(",", 16) + "}"
