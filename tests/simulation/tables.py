"""The simulated tables as dictionaries, with the effects of the triggers: usage, quota refusals, notifications.

Times are seconds since 1970, to the microsecond. Every call is one transaction at one moment.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from attrs import Factory, define

MINUTE_S = 60.0
DAY_S = 86_400.0
STORAGE_LIMIT_BYTES = 1 << 30

NEVER_S = 253_370_764_800.0
"""A time in the year 9999, which the schema uses for "never"."""

_HINTS_PER_NOTIFICATION = 100
_RESCAN_ABOVE = 1000


class QuotaExceeded(Exception):
    """SQLSTATE RX101. The statement is rolled back."""


@define(kw_only=True)
class Source:
    id: UUID
    user_id: UUID
    content_hash: str
    byte_size: int
    storage_status: str = "pending"
    storage_url: str | None = None
    pending_since: float


@define(kw_only=True)
class UploadRow:
    id: UUID
    source_id: UUID
    user_id: UUID
    bucket: str
    object_path: str
    content_hash: str | None
    byte_size: int
    temp_file_path: str | None
    traceparent: str
    max_retries: int
    next_retry_at: float
    created_at: float
    updated_at: float
    spool: str = "default"
    status: str = "failed"
    retry_count: int = 0
    claim_count: int = 0
    error_code: str | None = None
    lease_token: UUID | None = None
    lease_expires_at: float | None = None
    errors: int = 0
    """Number of entries in the column `errors`."""


@define(kw_only=True)
class RunRow:
    id: UUID
    user_id: UUID
    source_id: UUID
    traceparent: str | None
    created_at: float
    started_at: float
    heartbeat_at: float
    heartbeat_notified_until: float
    timeout_at: float | None
    heartbeat_timeout: float | None
    status: str = "running"
    error_code: str | None = None
    completed_at: float | None = None


@define
class Usage:
    total_bytes: int = 0
    reserved_bytes: int = 0
    total_sources: int = 0


@define
class Instance:
    seen_at: float
    mode: str


@define(kw_only=True)
class Tables:
    """All rows, and the effects of the triggers, which apply to every write."""

    clock: Callable[[], float]
    tenant_of: Callable[[UUID], int]
    sources: dict[UUID, Source] = Factory(dict)
    uploads: dict[UUID, UploadRow] = Factory(dict)
    runs: dict[UUID, RunRow] = Factory(dict)
    usage: dict[UUID, Usage] = Factory(dict)
    instances: dict[UUID, Instance] = Factory(dict)
    locked: set[UUID] = Factory(set)
    """Uploads, sources and users whose row of upload_queue, sources or storage_usage another session has locked."""
    refused_sources: set[UUID] = Factory(set)
    """Sources that the app's trigger refuses to change."""
    refused_claims: set[UUID] = Factory(set)
    """Uploads that the app's trigger refuses to change, except to dead."""
    refused_changes: set[UUID] = Factory(set)
    """Uploads that the app's trigger refuses to change at all; they are also in `refused_claims`."""
    sent: list[tuple[str, dict[str, Any] | str]] = Factory(list)
    """(channel, payload) of each notification that the server hasn't sent yet. The server clears the list."""

    def now(self) -> float:
        return round(self.clock(), 6)

    # sources and usage

    def write_source(self, source: Source, status: str, *, size: int | None = None, settles: bool = False) -> None:
        """Write a source and update the usage.

        Raises QuotaExceeded if the write adds bytes beyond the limit. A settlement (`settles`) may exceed the limit.
        """
        size = source.byte_size if size is None else size
        is_new = source.id not in self.sources
        before = (0, 0, 0) if is_new else _entry(source.storage_status, source.byte_size)
        total, reserved, stored = (a - b for a, b in zip(_entry(status, size), before, strict=True))
        usage = self.usage.get(source.user_id, Usage())
        used = usage.total_bytes + usage.reserved_bytes
        if not settles and total + reserved > 0 and used + total + reserved > STORAGE_LIMIT_BYTES:
            raise QuotaExceeded
        if total or reserved or stored or is_new:
            usage.total_bytes = max(0, usage.total_bytes + total)
            usage.reserved_bytes = max(0, usage.reserved_bytes + reserved)
            usage.total_sources = max(0, usage.total_sources + stored)
            self.usage[source.user_id] = usage
        if not is_new and status == "pending" and source.storage_status != "pending":
            source.pending_since = self.now()
        source.storage_status, source.byte_size = status, size
        self.sources[source.id] = source

    # notifications

    def notify_upload_inserted(self, row: UploadRow) -> None:
        self._send("reactor_uploads", [self._hint(row.id, row.user_id, row.next_retry_at)])

    def notify_uploads_updated(self, changes: Iterable[tuple[str, float, UploadRow]]) -> None:
        """Notify the changes of one statement. Each change is (former status, former next_retry_at, row)."""
        now = self.now()
        self._send(
            "reactor_uploads",
            [
                self._hint(row.id, row.user_id, row.next_retry_at)
                for was, due_at, row in changes
                if row.status == "failed"
                and (
                    was not in {"failed", "uploading"}
                    or (was == "failed" and row.next_retry_at < due_at)
                    or (was == "uploading" and row.next_retry_at <= now)
                )
            ],
        )

    def notify_run(self, run: RunRow) -> None:
        if run.status != "running":
            hint = self._hint(run.id, run.user_id, None)
        elif run.heartbeat_timeout is not None:
            hint = self._hint(run.id, run.user_id, deadline(run, None))
        else:
            age_ms = round(min(DAY_S, max(0.0, self.now() - run.heartbeat_at)) * 1000)
            hint = [*self._hint(run.id, run.user_id, run.timeout_at), age_ms]
        self._send("reactor_runs", [hint])

    def _hint(self, row_id: UUID, user_id: UUID, due_at: float | None) -> list[Any]:
        left_s = None if due_at is None else due_at - self.now()
        ms = None if left_s is None else round(min(DAY_S, left_s) * 1000) if left_s > 0 else 1
        return [row_id.hex, self.tenant_of(user_id), ms]

    def _send(self, channel: str, hints: Sequence[list[Any]]) -> None:
        at = round(self.now() * 1000)
        if len(hints) > _RESCAN_ABOVE:
            self.sent.append((channel, {"v": 1, "at": at, "rescan": True}))
            return
        for first in range(0, len(hints), _HINTS_PER_NOTIFICATION):
            self.sent.append((channel, {"v": 1, "at": at, "rows": hints[first : first + _HINTS_PER_NOTIFICATION]}))


def _entry(status: str, size: int) -> tuple[int, int, int]:
    return (
        size if status == "uploaded" else 0,
        size if status == "pending" else 0,
        int(status == "uploaded"),
    )


def deadline(run: RunRow, patience_s: float | None) -> float | None:
    """Return the time at which a run becomes stale, or None for never.

    A run without a heartbeat_timeout of its own uses `patience_s`. If that is None too, only timeout_at counts.
    """
    timeout_s = patience_s if run.heartbeat_timeout is None else run.heartbeat_timeout
    dues = [] if run.timeout_at is None else [run.timeout_at]
    if timeout_s is not None:
        dues.append(round(run.heartbeat_at + timeout_s, 6))
    return min(dues, default=None)
