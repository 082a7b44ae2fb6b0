"""Where a row stands in its trace: what its traceparent says, and the ids of its spans.

Span ids are reckoned, not drawn: from the row, the number of the claim, and the span's role. So a link to the attempt
before needs no stored state, whichever reactor made it, and a span that is told of again after a crash is the same.
"""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, level 2; versions above 00 may say more, which is left alone."""

_SAMPLED_AND_RANDOM = 3
_REMEMBERED = 10_000


class TraceContext(NamedTuple):
    """A place in a trace, and who tells of it."""

    trace_id: bytes
    """16 bytes."""

    span_id: bytes
    """8 bytes: the span that everything of this row hangs under."""

    flags: int
    """W3C trace flags: 1 sampled, 2 random trace id."""

    is_ours: bool
    """True when no app made that span: the reactor tells of it, and decides whether the trace is sampled."""

    @property
    def trace_hex(self) -> str:
        return self.trace_id.hex()


@lru_cache(_REMEMBERED)
def context_of(traceparent: str | None, row_id: UUID) -> TraceContext:
    """Return where the row belongs: in the trace that its traceparent names, or in one of its own.

    The default of upload_queue.traceparent has the parent id "reactor" in ASCII and a zero byte; a row
    without a valid one (an app may write anything) gets ids that are reckoned from its own.
    """
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found is None or (found[1] == "00" and found[5]):
        trace_id = blake2b(row_id.bytes, digest_size=16).digest()
        return TraceContext(trace_id, root_span_id(row_id), _SAMPLED_AND_RANDOM, is_ours=True)
    trace_id, span_id = bytes.fromhex(found[2]), bytes.fromhex(found[3])
    is_default = span_id == bytes.fromhex("72656163746f7200")
    return TraceContext(trace_id, span_id, int(found[4], 16), is_ours=is_default)


class SpanIds(NamedTuple):
    """The ids of all spans that one claim of a row may lead to, 8 bytes each."""

    attempt: bytes
    backoff: bytes
    put: bytes
    settle: bytes
    whole: bytes


@lru_cache(_REMEMBERED)
def span_ids(row_id: UUID, ordinal: int) -> SpanIds:
    """Return the ids of the spans of a row's claim number `ordinal`: one hash, cut into pieces."""
    digest = blake2b(b"%b%d" % (row_id.bytes, ordinal), digest_size=40).digest()
    return SpanIds(digest[:8], digest[8:16], digest[16:24], digest[24:32], digest[32:])


def root_span_id(row_id: UUID) -> bytes:
    """Return the id of the span above everything of a row that has no traceparent."""
    return blake2b(row_id.bytes, digest_size=8, person=b"root").digest()


def timeout_span_id(run_id: UUID) -> bytes:
    """Return the id of the span that tells of a run's timeout; a run has one at most."""
    return blake2b(run_id.bytes, digest_size=8, person=b"timeout").digest()


class Trail(NamedTuple):
    """Where a claimed upload comes from: all that its trace needs. Times are the database's seconds since 1970."""

    upload_id: UUID
    traceparent: str | None
    bucket: str
    size_bytes: int
    attempt: int
    """From 1, as max_retries counts; one that is handed back isn't counted."""

    ordinal: int
    """From 1: the number of this claim among all that were ever made of the row. Names the attempt's spans."""

    created_at: float
    due_at: float
    claimed_at: float
    waited_since: float | None = None
    """When the wait began that ended with this claim; None when that isn't known."""

    lost_at: float | None = None
    """When the attempt was claimed that this one takes over from, for its worker left no word; None: from nobody."""

    @property
    def context(self) -> TraceContext:
        """Where the row belongs."""
        return context_of(self.traceparent, self.upload_id)

    @property
    def span_id(self) -> bytes:
        """The attempt's span."""
        return span_ids(self.upload_id, self.ordinal).attempt

    @property
    def fields(self) -> dict[str, str | int]:
        """What every log line of the attempt carries."""
        return {
            "upload_id": str(self.upload_id),
            "attempt": self.attempt,
            "trace_id": self.context.trace_hex,
            "span_id": self.span_id.hex(),
        }
