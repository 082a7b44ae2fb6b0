"""Events → spans: one trace tells an upload's whole life, from its queueing to its end.

    upload.queued ─┬─ upload.attempt ─── upload.put, upload.settle
    (or the app's  ├─ upload.backoff
     own span)     ├─ upload.attempt ─── upload.put, upload.settle        each attempt linked to the one before
                   ├─ …
                   └─ upload                                              from created to settled

Every span is told of when it is over, with its true times: a wait by whoever ends it. So a crash loses no wait, nothing
is kept from one event to the next, and a trace reads the same whichever reactors took part. An attempt whose worker
left no word is told of by whoever finds its lease expired.
"""

from collections.abc import Mapping
from functools import lru_cache
from uuid import UUID

from opentelemetry import trace as otel
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler

from reactor.core.events import (
    MOST_LINKS,
    AttemptSettled,
    AttemptsSettled,
    Reconciled,
    RunExpired,
    UploadRescued,
    UploadsClaimed,
)
from reactor.core.model import Verdict
from reactor.core.trace_context import TraceContext, Trail, context_of, span_ids, timeout_span_id
from reactor.telemetry.spans import CLIENT, CONSUMER, INTERNAL, PRODUCER, Attribute, SpanBatches

_WORTH_TELLING_S = 1.0
"""A wait that nobody ordered is told of from here on: nobody was there, or all were busy."""

_REMEMBERED = 10_000

_KIND_OF = {"upload.backoff": INTERNAL, "upload.put": CLIENT, "upload.settle": CLIENT, "upload": INTERNAL}


class Traces:
    """Makes spans of what happens to sampled rows."""

    def __init__(self, spans: SpanBatches, sampler: Sampler) -> None:
        self._spans = spans
        self._sampler = sampler
        self._is_sampled = lru_cache(_REMEMBERED)(self._decide)

    def _decide(self, context: TraceContext) -> bool:
        """Ask the sampler: as for a root where the root is ours to tell of, else as for a child of the app's span."""
        if self._sampler is DEFAULT_ON:  # what nearly everybody has; asking it takes as long as three spans
            return context.is_ours or bool(context.flags & otel.TraceFlags.SAMPLED)
        parent = None
        if not context.is_ours:
            parent = otel.set_span_in_context(
                otel.NonRecordingSpan(
                    otel.SpanContext(
                        int.from_bytes(context.trace_id),
                        int.from_bytes(context.span_id),
                        is_remote=True,
                        trace_flags=otel.TraceFlags(context.flags),
                    )
                )
            )
        name, kind = ("upload.queued", otel.SpanKind.PRODUCER) if parent is None else ("upload", otel.SpanKind.CONSUMER)
        result = self._sampler.should_sample(parent, int.from_bytes(context.trace_id), name, kind)
        return result.decision is Decision.RECORD_AND_SAMPLE

    # uploads

    def claimed(self, event: UploadsClaimed) -> None:
        """Tell how the uploads came here: queued, left behind by another, waited."""
        for trail in event.trails:
            if self._is_sampled(trail.context):
                self._tell_way(trail)

    def _tell_way(self, trail: Trail) -> None:
        since = trail.waited_since
        if trail.lost_at is not None and since is not None:
            self._lost(trail, trail.ordinal - 1, (trail.lost_at, since), Verdict.RETRY)
        waits = since is not None and (trail.due_at > since or trail.claimed_at - since >= _WORTH_TELLING_S)
        if trail.ordinal == 1:
            self._queued(trail, trail.created_at if waits else trail.claimed_at)
        if waits and since is not None:
            self._add(
                trail,
                "upload.backoff",
                span_ids(trail.upload_id, trail.ordinal).backoff,
                (since, trail.claimed_at),
                {"upload.id": str(trail.upload_id), "upload.attempt": trail.attempt, **_lag(trail)},
            )

    def _queued(self, trail: Trail, until: float) -> None:
        """Tell of the root, where no app does: from created to the first reaction."""
        context = trail.context
        if context.is_ours:
            self._spans.add(
                "upload.queued",
                PRODUCER,
                (context.trace_id, context.span_id, b""),
                (trail.created_at, until),
                _about(trail.upload_id, trail.bucket, trail.size_bytes),
                flags=context.flags,
                is_parent_remote=False,
            )

    def settled(self, event: AttemptsSettled) -> None:
        """Tell of each attempt, and of the whole upload when that was its end."""
        for settled in event.attempts:
            self._settled(settled)

    def _settled(self, event: AttemptSettled) -> None:
        trail, verdict = event.trail, event.verdict
        if not self._is_sampled(trail.context):
            return
        ids = span_ids(trail.upload_id, trail.ordinal)
        times = (trail.claimed_at, event.settled_at)
        self._attempt(trail, trail.ordinal, times, verdict, (event.code, event.message))
        settling_at = min(max(event.settling_at, trail.claimed_at), event.settled_at)
        about = _about(trail.upload_id, trail.bucket, trail.size_bytes)
        if event.put is not None:
            # the database's clock is known to a millisecond or so: what is inside the attempt stays inside
            began, ended = event.put
            began = min(max(began, trail.claimed_at), settling_at)
            ended = min(max(ended, began), settling_at)
            self._add(trail, "upload.put", ids.put, (began, ended), about, parent=ids.attempt)
        times = (settling_at, event.settled_at)
        upload: dict[str, Attribute] = {"upload.id": about["upload.id"]}
        self._add(trail, "upload.settle", ids.settle, times, upload, parent=ids.attempt)
        if verdict in (Verdict.STORED, Verdict.DEAD):
            self._ended(trail, event.settled_at, verdict, event.code)

    def rescued(self, event: UploadRescued) -> None:
        """Tell of an attempt whose worker left no word, and of the whole upload when it was buried."""
        trail = event.trail
        if not self._is_sampled(trail.context):
            return
        if event.was_leased:
            self._lost(trail, trail.ordinal, (trail.claimed_at, event.rescued_at), event.verdict)
        elif trail.ordinal == 0:
            self._queued(trail, trail.created_at)  # it never had a try
        if event.verdict is Verdict.DEAD:
            self._ended(trail, event.rescued_at, event.verdict, event.code)

    def _lost(self, trail: Trail, ordinal: int, times: tuple[float, float], verdict: Verdict) -> None:
        if ordinal == 1:
            self._queued(trail, times[0])  # told of again: it may have died with the worker
        self._attempt(trail, ordinal, times, verdict, ("STORAGE_UNAVAILABLE", "the worker stopped without a word"))

    def _attempt(
        self,
        trail: Trail,
        ordinal: int,
        times: tuple[float, float],
        verdict: Verdict,
        failure: tuple[str | None, str | None],
    ) -> None:
        """Tell of this attempt, or of the one before; `failure` is its code and message."""
        is_this = ordinal == trail.ordinal
        has_failed = verdict in (Verdict.RETRY, Verdict.DEAD)
        code, message = failure
        attributes: dict[str, Attribute] = {
            **_about(trail.upload_id, trail.bucket, trail.size_bytes),
            # the one that was lost counted; the one that takes over is the next
            "upload.attempt": trail.attempt if is_this else trail.attempt - 1,
            "upload.outcome": verdict.value,
        }
        if is_this:
            attributes |= _lag(trail)
        if has_failed:
            attributes["error.type"] = code or ""
        context = trail.context
        self._spans.add(
            "upload.attempt",
            CONSUMER,
            (context.trace_id, span_ids(trail.upload_id, ordinal).attempt, context.span_id),
            times,
            attributes,
            flags=context.flags,
            links=[(context.trace_id, span_ids(trail.upload_id, ordinal - 1).attempt)] if ordinal > 1 else (),
            error=message or "" if has_failed else None,
        )

    def _ended(self, trail: Trail, at: float, verdict: Verdict, code: str | None) -> None:
        attributes: dict[str, Attribute] = {
            **_about(trail.upload_id, trail.bucket, trail.size_bytes),
            "upload.attempt": trail.attempt,
            "upload.outcome": verdict.value,
        }
        if code is not None:
            attributes["error.type"] = code
        whole = span_ids(trail.upload_id, trail.ordinal).whole
        self._add(trail, "upload", whole, (trail.created_at, at), attributes)

    def _add(
        self,
        trail: Trail,
        name: str,
        span_id: bytes,
        times: tuple[float, float],
        attributes: Mapping[str, Attribute],
        *,
        parent: bytes | None = None,
    ) -> None:
        """Add a span, below the row's own place in the trace or below `parent`."""
        context = trail.context
        self._spans.add(
            name,
            _KIND_OF[name],
            (context.trace_id, span_id, parent or context.span_id),
            times,
            attributes,
            flags=context.flags,
            is_parent_remote=parent is None,
        )

    # runs, and the reactor's own

    def expired(self, event: RunExpired) -> None:
        """Tell in the run's own trace when its deadline was, and when it was failed."""
        context = event.context
        if self._is_sampled(context):
            self._spans.add(
                "interpretation.timeout",
                INTERNAL,
                (
                    context.trace_id,
                    timeout_span_id(event.run_id),
                    # a run without an app's traceparent has a trace of its own, and no span above this one
                    b"" if context.is_ours else context.span_id,
                ),
                (event.failed_at - event.late_s, event.failed_at),
                {"interpretation.id": str(event.run_id), "error.type": event.code},
                flags=context.flags,
            )

    def reconciled(self, event: Reconciled) -> None:
        """Tell of a pass, with links into the traces of what it changed."""
        context = context_of(None, event.pass_id)
        if self._is_sampled(context):
            self._spans.add(
                "reconcile",
                INTERNAL,
                (context.trace_id, context.span_id, b""),
                (event.began_at, event.ended_at),
                {"reconcile.changed": event.changed},
                flags=context.flags,
                is_parent_remote=False,
                links=[(row.trace_id, row.span_id) for row in event.links[:MOST_LINKS]],
            )


def _lag(trail: Trail) -> dict[str, Attribute]:
    """Say how much later than due the upload was claimed."""
    due_at = trail.due_at if trail.waited_since is None else max(trail.due_at, trail.waited_since)
    return {"reactor.wheel_lag_ms": round(1000 * max(0.0, trail.claimed_at - due_at), 3)}


@lru_cache(_REMEMBERED)
def _about(upload_id: UUID, bucket: str, size_bytes: int) -> Mapping[str, Attribute]:
    """Return what most spans of an upload say."""
    return {"upload.id": str(upload_id), "upload.bucket": bucket, "upload.bytes": size_bytes}
