"""The simulated database: uploads. The methods do the same as the functions in schema/functions."""

from collections import namedtuple
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from reactor.core.errors import DatabaseRefused
from simulation.tables import DAY_S, NEVER_S, QuotaExceeded, Source, Tables, UploadRow

_NO_TRIES = "STORAGE_UPLOAD_FAILED"


class ClaimAnswer(NamedTuple):
    state: str
    id: UUID
    due_at: float
    claimed_at: float | None = None
    created_at: float | None = None
    attempt: int | None = None
    max_retries: int | None = None
    byte_size: int | None = None
    bucket: str | None = None
    object_path: str | None = None
    content_hash: str | None = None
    spool: str | None = None
    temp_file_path: str | None = None
    mime_type: str | None = None
    traceparent: str | None = None
    last_code: str | None = None
    ordinal: int | None = None
    waited_since: float | None = None
    lost_at: float | None = None
    source_id: UUID | None = None
    user_id: UUID | None = None


class SettleAnswer(NamedTuple):
    id: UUID
    state: str
    due_at: float | None
    settled_at: float | None
    message: str | None = None


_REFUSAL = "the app refuses it"


RepairAnswer = namedtuple("RepairAnswer", ["kind", "count"])  # noqa: PYI024  # mypy refuses `count` in a NamedTuple


class UploadCalls(Tables):
    """The functions that the reactor, the app and an operator call for uploads."""

    # the reactor

    def claim(
        self,
        ids: Collection[UUID],
        token: UUID,
        lease: timedelta,
        held_buckets: Collection[str] = (),
        held_spools: Collection[str] = (),
    ) -> list[ClaimAnswer]:
        now = self.now()

        def is_held(row: UploadRow) -> bool:
            return row.bucket in held_buckets or row.spool in held_spools

        found = sorted((self.uploads[i] for i in set(ids) if i in self.uploads), key=lambda row: row.id)
        rows = [row for row in found if row.id not in self.locked and (row.lease_token == token or not is_held(row))]
        if any(row.id in self.refused_claims and self._is_claimable(row, token) for row in rows):
            raise DatabaseRefused(_REFUSAL, sqlstate="P0001")
        claimed = [answer for row in rows if (answer := self._claim(row, token, lease)) is not None]
        others = [row for row in found if row.status in {"failed", "uploading"} and row.lease_token != token]
        for row in others:
            free_at = row.next_retry_at if row.status == "failed" else row.lease_expires_at or 0.0
            is_spent = row.retry_count >= row.max_retries
            due = "exhausted" if is_spent else "held" if is_held(row) else "locked"
            state = "waiting" if free_at > now else due
            claimed.append(ClaimAnswer(state, row.id, min(free_at, NEVER_S), bucket=row.bucket, spool=row.spool))
        return claimed

    def _is_claimable(self, row: UploadRow, token: UUID) -> bool:
        was_leased = row.status == "uploading"
        free_at = (row.lease_expires_at or 0.0) if was_leased else row.next_retry_at
        is_free = row.status in {"failed", "uploading"} and free_at <= self.now() and row.retry_count < row.max_retries
        return is_free or (was_leased and row.lease_token == token)

    def _claim(self, row: UploadRow, token: UUID, lease: timedelta) -> ClaimAnswer | None:
        now, is_repeated, was_leased = self.now(), row.lease_token == token, row.status == "uploading"
        if not self._is_claimable(row, token):
            return None
        changed_at, leased_until = row.updated_at, row.lease_expires_at
        is_taken_over = was_leased and not is_repeated
        row.errors += is_taken_over
        row.status = "uploading"
        row.retry_count += not is_repeated
        row.claim_count += not is_repeated
        row.lease_token = token
        row.lease_expires_at = now + lease.total_seconds()
        row.updated_at = now
        return ClaimAnswer(
            id=row.id,
            state="claimed",
            due_at=max(row.next_retry_at, 0.0),
            claimed_at=now,
            created_at=row.created_at,
            attempt=row.retry_count,
            max_retries=row.max_retries,
            byte_size=row.byte_size,
            bucket=row.bucket,
            object_path=row.object_path,
            content_hash=row.content_hash,
            spool=row.spool,
            temp_file_path=row.temp_file_path,
            traceparent=row.traceparent,
            last_code=row.error_code,
            ordinal=row.claim_count,
            waited_since=None if is_repeated else leased_until if was_leased else changed_at,
            lost_at=changed_at if is_taken_over and row.claim_count > 1 else None,
            source_id=row.source_id,
            user_id=row.user_id,
        )

    def extend(self, ids: Sequence[UUID], tokens: Sequence[UUID], lease: timedelta) -> list[tuple[UUID, bool]]:
        held = [row for i, token in zip(ids, tokens, strict=True) if (row := self._held(i, token)) is not None]
        for row in held:
            if row.id not in self.locked:
                row.lease_expires_at = self.now() + lease.total_seconds()
        return [(row.id, row.id not in self.locked) for row in held]

    def _held(self, upload: UUID, token: UUID) -> UploadRow | None:
        """Return the row if `token` holds its lease, else None."""
        row = self.uploads.get(upload)
        return row if row is not None and row.status == "uploading" and row.lease_token == token else None

    def settle(self, *arguments: Any) -> list[SettleAnswer]:
        """Settle attempts. Columns: upload, token, verdict, seconds until the next attempt, code, message, URL."""
        columns = arguments[:7]
        now, answers, changes = self.now(), [], []
        stored: dict[UUID, str] = {}
        dead: set[UUID] = set()
        for upload, token, verdict, delay_s, code, _message, url in zip(*columns, strict=True):
            row = self._held(upload, token)
            if row is None:
                continue
            if self._is_locked(row) if verdict in {"stored", "dead"} else row.id in self.locked:
                answers.append(SettleAnswer(row.id, "busy", None, None))
                continue
            if verdict in {"stored", "dead"} and row.source_id in self.refused_sources:
                self._bury_refused(row)
                answers.append(SettleAnswer(row.id, "refused", None, now, _REFUSAL))
                continue
            if verdict == "stored":
                stored[row.source_id] = max(url, stored.get(row.source_id, ""))
                del self.uploads[row.id]
                answers.append(SettleAnswer(row.id, "settled", None, now))
                continue
            if verdict == "dead":
                dead.add(row.source_id)
            changes.append((row.status, row.next_retry_at, row))
            row.status = "dead" if verdict == "dead" else "failed"
            row.retry_count -= verdict == "deferred"
            row.errors += verdict != "deferred"
            row.next_retry_at = round(now + delay_s, 6)
            row.error_code = code or row.error_code
            _release(row, now)
            due_at = row.next_retry_at if row.status == "failed" else None
            answers.append(SettleAnswer(row.id, "settled", due_at, now))
        for source_id in stored.keys() | dead:
            source = self.sources[source_id]
            if source_id in stored:
                source.storage_url = stored[source_id]
                self.write_source(source, "uploaded", settles=True)
            elif source.storage_status == "pending":
                self.write_source(source, "failed", settles=True)
        self.notify_uploads_updated(changes)
        return answers

    def _is_locked(self, row: UploadRow) -> bool:
        return not self.locked.isdisjoint({row.id, row.source_id, self.sources[row.source_id].user_id})

    def _bury_refused(self, row: UploadRow) -> None:
        """Mark an upload as dead; its source stays as it is, because the app refuses changes of the source."""
        row.status, row.error_code = "dead", "DATABASE_REFUSED"
        row.errors += 1
        _release(row, self.now())

    def refuse_upload(
        self, upload: UUID, token: UUID | None, sqlstate: str, message: str
    ) -> list[tuple[str, str, float]]:
        assert token is None
        message = f"{message} (SQLSTATE {sqlstate})"
        row, now = self.uploads.get(upload), self.now()
        is_leased = row is not None and row.status == "uploading"
        if row is None or row.status not in {"failed", "uploading"}:
            return [("gone", message, now)]
        if ((row.lease_expires_at or 0.0) if is_leased else row.next_retry_at) > now:
            return [("gone", message, now)]
        if upload in self.locked:
            return [("busy", message, now)]
        if upload in self.refused_changes:
            return [("stuck", message, now)]
        self._bury_refused(row)
        source = self.sources[row.source_id]
        if source.id not in self.refused_sources and source.storage_status == "pending":
            self.write_source(source, "failed")
        return [("refused", message, now)]

    def confirm_stored(self, ids: Sequence[UUID], sources: Sequence[UUID], urls: Sequence[str]) -> list[tuple[UUID]]:
        confirmed = []
        for upload, source_id, url in zip(ids, sources, urls, strict=True):
            source = self.sources.get(source_id)
            is_there = source is not None and (source.storage_status, source.storage_url) == ("uploaded", url)
            if is_there and upload not in self.uploads:
                confirmed.append((upload,))
        return confirmed

    def rescue(self, ids: Collection[UUID] | None, limit: int) -> list[tuple[Any, ...]]:
        now, answers, changes = self.now(), [], []
        rows = sorted((r for r in self.uploads.values() if ids is None or r.id in ids), key=lambda row: row.id)
        if any(r.id in self.refused_claims for r in rows if self._is_claimable(r, r.id)):
            raise DatabaseRefused(_REFUSAL, sqlstate="P0001")
        rows = [r for r in rows if not (self._is_locked(r) if _is_exhausted(r) else r.id in self.locked)]
        leased = [r for r in rows if r.status == "uploading" and (r.lease_expires_at or 0.0) <= now]
        leased.sort(key=_is_exhausted)  # stable: uploads that wait again come first
        spent = [r for r in rows if r.status == "failed" and _is_exhausted(r) and r.next_retry_at <= now]
        for row in (leased + spent)[:limit]:
            was_leased, claimed_at = row.status == "uploading", row.updated_at
            changes.append((row.status, row.next_retry_at, row))
            if _is_exhausted(row):
                row.status, row.error_code = "dead", _NO_TRIES
                source = self.sources[row.source_id]
                if source.storage_status == "pending":
                    self.write_source(source, "failed")
            else:
                row.status, row.next_retry_at = "failed", now
            row.errors += was_leased
            _release(row, now)
            verdict = "dead" if row.status == "dead" else "retry"
            whence = (row.bucket, row.byte_size, row.created_at, claimed_at if was_leased else None, now)
            answers.append(
                (
                    row.id,
                    verdict,
                    row.error_code,
                    row.traceparent,
                    row.retry_count,
                    row.claim_count,
                    *whence,
                    row.user_id,
                )
            )
        self.notify_uploads_updated(changes)
        return answers

    def sweep_uploads(self, horizon: timedelta, per_tenant: int, limit: int) -> list[tuple[UUID, int, float, float]]:
        until = self.now() + horizon.total_seconds()
        of_user: dict[UUID, list[UploadRow]] = {}
        for row in sorted(self.uploads.values(), key=lambda row: row.next_retry_at):
            if row.status == "failed" and row.next_retry_at <= until:
                of_user.setdefault(row.user_id, []).append(row)
        waiting = [row for user in sorted(of_user) for row in of_user[user][:per_tenant]][:limit]
        leased = [row for row in self.uploads.values() if row.status == "uploading"][:limit]
        found = [(row, max(row.next_retry_at, 0.0)) for row in waiting]
        found += [(row, row.lease_expires_at or 0.0) for row in leased]
        return [(row.id, self.tenant_of(row.user_id), due_at, row.updated_at) for row, due_at in found]

    def repair_usage(self, limit: int) -> list[RepairAnswer]:
        owed = {row.source_id for row in self.uploads.values() if row.status in {"failed", "uploading"}}
        leaked = [s for s in self.sources.values() if s.storage_status == "pending" and s.id not in owed]
        leaked = [s for s in leaked if s.pending_since < self.now() - DAY_S][:limit]
        for source in leaked:
            self.write_source(source, "failed")
        return [RepairAnswer("reservations", len(leaked))] if leaked else []

    # the app

    def reserve(self, user: UUID, content_hash: str, size: int, new_id: UUID) -> UUID | None:
        """Return the id of the source with this content, or None if the source would exceed the quota."""
        known = [s for s in self.sources.values() if (s.user_id, s.content_hash) == (user, content_hash)]
        source = (
            known[0]
            if known
            else Source(id=new_id, user_id=user, content_hash=content_hash, byte_size=size, pending_since=self.now())
        )
        try:
            if not known or source.storage_status == "failed":
                self.write_source(source, "pending", size=size)
        except QuotaExceeded:
            return None
        return source.id

    def fail_upload(  # noqa: PLR0917  # the parameters of public.fail_upload
        self,
        source_id: UUID,
        bucket: str,
        object_path: str,
        temp: str,
        traceparent: str,
        max_retries: int,
        new_id: UUID,
    ) -> UUID | str:
        """Return the queued upload's id, or "uploaded" if the source is already stored, or an error code."""
        source, now = self.sources[source_id], self.now()
        if source.storage_status == "uploaded":
            return "uploaded"
        rows = [row for row in self.uploads.values() if row.source_id == source_id]
        if owed := [row for row in rows if row.status in {"failed", "uploading"}]:
            return owed[0].id
        if rows and source.storage_status == "failed":
            return "STORAGE_UPLOAD_FAILED"
        try:
            self.write_source(source, "pending")
        except QuotaExceeded:
            return "STORAGE_QUOTA_EXCEEDED"
        row = UploadRow(
            id=new_id,
            source_id=source_id,
            user_id=source.user_id,
            bucket=bucket,
            object_path=object_path,
            content_hash=source.content_hash,
            byte_size=source.byte_size,
            temp_file_path=temp,
            traceparent=traceparent,
            max_retries=max_retries,
            next_retry_at=now,
            created_at=now,
            updated_at=now,
        )
        self.uploads[new_id] = row
        self.notify_upload_inserted(row)
        return new_id

    def complete_upload(self, source_id: UUID, url: str) -> bool:
        """Record that the app's own attempt succeeded. Returns False if the source would exceed the quota."""
        source = self.sources[source_id]
        if source.storage_status != "uploaded":
            try:
                self.write_source(source, "uploaded")
            except QuotaExceeded:
                return False
            source.storage_url = url
            for row in list(self.uploads.values()):
                if row.source_id == source_id and row.status != "uploading":
                    del self.uploads[row.id]
        return True

    # an operator

    def requeue(self, ids: Collection[UUID]) -> list[tuple[UUID, str | None]]:
        answers: list[tuple[UUID, str | None]] = []
        rows = [self.uploads[i] for i in set(ids) if i in self.uploads]
        for row in sorted(rows, key=lambda row: (row.user_id, row.id)):
            if row.status == "uploading":
                continue
            source, before = self.sources[row.source_id], (row.status, row.next_retry_at, row)
            try:
                if row.status != "failed" and source.storage_status == "failed":
                    self.write_source(source, "pending")
            except QuotaExceeded:
                answers.append((row.id, "STORAGE_QUOTA_EXCEEDED"))
                continue
            row.retry_count = row.retry_count if row.status == "failed" else 0
            row.status = "failed"
            row.next_retry_at = min(row.next_retry_at, self.now())
            row.updated_at = self.now()
            self.notify_uploads_updated([before])
            answers.append((row.id, None))
        return answers

    def cancel(self, ids: Collection[UUID]) -> list[UUID]:
        rows = [self.uploads[i] for i in set(ids) if i in self.uploads]
        rows = [row for row in rows if row.status != "cancelled"]
        for row in rows:
            row.status = "cancelled"
            _release(row, self.now())
            source = self.sources[row.source_id]
            if source.storage_status == "pending":
                self.write_source(source, "failed")
        return [row.id for row in rows]

    def purge(self, ids: Collection[UUID]) -> list[UUID]:
        purged = [i for i in set(ids) if i in self.uploads and self.uploads[i].status in {"dead", "cancelled"}]
        for upload in purged:
            del self.uploads[upload]
        return purged


def _is_exhausted(row: UploadRow) -> bool:
    return row.retry_count >= row.max_retries


def _release(row: UploadRow, now: float) -> None:
    row.lease_token = row.lease_expires_at = None
    row.updated_at = now
