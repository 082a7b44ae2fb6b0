"""The trace context of a row, from its traceparent, and the ids of its spans.

Span ids are not random. They are derived from the row's id and the number of the claim. So a link to the previous
attempt needs no stored state, and a span that is exported again after a crash has the same id.
"""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

ROOT_SPAN_ID = b"reactor\x00"
"""The span id in a traceparent that the database made (schema/functions/lib_traceparent.sql).

The reactor exports a root span with this id, because no app has exported one.
"""

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, level 2. A version above 00 may have further fields. They are ignored."""

_SAMPLED_AND_RANDOM = 3
_CACHE_SIZE = 10_000


class TraceContext(NamedTuple):
    """The trace that a row belongs to, and the parent of the row's spans."""

    trace_id: bytes
    """16 bytes."""

    span_id: bytes
    """8 bytes: the parent of the row's spans."""

    flags: int
    """W3C trace flags: 1 sampled, 2 random trace id."""

    @property
    def is_ours(self) -> bool:
        """True if the parent is not an app's span: the reactor exports the parent and decides about sampling."""
        return self.span_id == ROOT_SPAN_ID


@lru_cache(_CACHE_SIZE)
def context_of(traceparent: str | None, row_id: UUID) -> TraceContext:
    """Return the context in `traceparent`. If it is None or invalid, return one derived from the row's id."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or (found[1] == "00" and found[5]):
        trace_id = blake2b(row_id.bytes, digest_size=16).digest()
        return TraceContext(trace_id, ROOT_SPAN_ID, _SAMPLED_AND_RANDOM)
    return TraceContext(bytes.fromhex(found[2]), bytes.fromhex(found[3]), int(found[4], 16))


class SpanIds(NamedTuple):
    """The ids of all spans of one claim of a row, 8 bytes each. `whole` is for the span of the whole upload."""

    attempt: bytes
    backoff: bytes
    put: bytes
    settle: bytes
    whole: bytes


@lru_cache(_CACHE_SIZE)
def span_ids(row_id: UUID, ordinal: int) -> SpanIds:
    """Return the span ids of claim number `ordinal` of a row: five parts of one hash."""
    digest = blake2b(b"%b%d" % (row_id.bytes, ordinal), digest_size=40).digest()
    return SpanIds(digest[:8], digest[8:16], digest[16:24], digest[24:32], digest[32:])


def timeout_span_id(run_id: UUID) -> bytes:
    """Return the id of the span of a run's timeout. A run has at most one."""
    return blake2b(run_id.bytes, digest_size=8, person=b"timeout").digest()


class Trail(NamedTuple):
    """The data for the spans of a claimed upload. Times are seconds since 1970, by the database's clock."""

    upload_id: UUID
    traceparent: str | None
    bucket: str
    size_bytes: int
    attempt: int
    """Number of the attempt, from 1 to max_retries. Deferred attempts aren't counted."""

    ordinal: int
    """Number of this claim among all claims of the row, from 1. The ids of the attempt's spans are derived from it."""

    created_at: float
    due_at: float
    claimed_at: float
    user_id: UUID
    waited_since: float | None = None
    """When the wait before this claim began; None if the claim was repeated, or if the upload was rescued."""

    lost_at: float | None = None
    """If this claim takes over an expired lease, the time at which the lost attempt was claimed; else None."""

    @property
    def context(self) -> TraceContext:
        """The row's trace context."""
        return context_of(self.traceparent, self.upload_id)

    @property
    def queued_id(self) -> bytes:
        """The id of the span `upload.queued`, the parent of all other spans of the upload."""
        context = self.context
        return context.span_id if context.is_ours else span_ids(self.upload_id, 0).whole

    @property
    def span_id(self) -> bytes:
        """The id of the attempt's span."""
        return span_ids(self.upload_id, self.ordinal).attempt

    @property
    def fields(self) -> dict[str, str | int]:
        """The fields of every log line of the attempt."""
        return {
            "upload_id": str(self.upload_id),
            "attempt": self.attempt,
            "trace_id": self.context.trace_id.hex(),
            "span_id": self.span_id.hex(),
        }
