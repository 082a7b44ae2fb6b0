"""Events → spans: one trace covers an upload's whole life, from its queueing to its end.

    upload.queued ─┬─ upload.attempt ─── upload.put, upload.settle
    (or the app's  ├─ upload.backoff
     own span)     ├─ upload.attempt ─── upload.put, upload.settle        each attempt linked to the one before
                   ├─ …
                   └─ upload                                              from created to settled

Spans are exported when they end, with their true times. The reactor that claims an upload exports the wait before it,
so a crash loses none, and no state is kept between events: a trace reads the same whichever reactors took part. The
reactor that finds a lease expired exports the attempt of the lost worker.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from uuid import UUID

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import SpanKind, TraceFlags

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
from reactor.telemetry.finished_span import Attribute, FinishedSpans, remote_parent

_MIN_UNPLANNED_WAIT_S = 1.0
"""A wait without a due time of its own is a span from here on: no reactor was running, or all were busy."""

_CACHE_SIZE = 10_000

_KINDS = {
    "upload.backoff": SpanKind.INTERNAL,
    "upload.put": SpanKind.CLIENT,
    "upload.settle": SpanKind.CLIENT,
    "upload": SpanKind.INTERNAL,
}


class Traces:
    """Makes spans from the events of sampled rows."""

    def __init__(
        self, export: Callable[[ReadableSpan], None], sampler: Sampler, resource: Resource, *, version: str
    ) -> None:
        self._spans = FinishedSpans(export, resource, version)
        self._sampler = sampler
        self._is_sampled = lru_cache(_CACHE_SIZE)(self._decide)

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the method to call for each type of event."""
        return {
            UploadsClaimed: self._on_claimed,
            AttemptsSettled: self._on_settled,
            UploadRescued: self._on_rescued,
            RunExpired: self._on_expired,
            Reconciled: self._on_reconciled,
        }

    def _decide(self, context: TraceContext) -> bool:
        """Ask the sampler: for a root span if the reactor exports the root, else for a child of the app's span."""
        if self._sampler is DEFAULT_ON:  # the usual one; asking it takes as long as three spans
            return context.is_ours or bool(context.flags & TraceFlags.SAMPLED)
        if context.is_ours:
            parent, name, kind = None, "upload.queued", SpanKind.PRODUCER
        else:
            parent, name, kind = remote_parent(context), "upload", SpanKind.CONSUMER
        result = self._sampler.should_sample(parent, int.from_bytes(context.trace_id), name, kind)
        return result.decision is Decision.RECORD_AND_SAMPLE

    # uploads

    def _on_claimed(self, event: UploadsClaimed) -> None:
        for trail in event.trails:
            if self._is_sampled(trail.context):
                self._export_history(trail)

    def _export_history(self, trail: Trail) -> None:
        """Export what preceded the claim: the queueing, a lost attempt, the wait."""
        since = trail.waited_since
        if trail.lost_at is not None and since is not None:
            self._export_lost(trail, trail.ordinal - 1, (trail.lost_at, since), Verdict.RETRY)
        has_waited = since is not None and (trail.due_at > since or trail.claimed_at - since >= _MIN_UNPLANNED_WAIT_S)
        if trail.ordinal == 1:
            self._export_queued(trail, trail.created_at if has_waited else trail.claimed_at)
        if has_waited and since is not None:
            self._export(
                trail,
                "upload.backoff",
                span_ids(trail.upload_id, trail.ordinal).backoff,
                (since, trail.claimed_at),
                {"upload.id": str(trail.upload_id), "upload.attempt": trail.attempt, **_lag(trail)},
            )

    def _export_queued(self, trail: Trail, ended_at: float) -> None:
        """Export the root, unless it is the app's: from created to the first reaction."""
        context = trail.context
        if context.is_ours:
            self._spans.export(
                "upload.queued",
                SpanKind.PRODUCER,
                context,
                context.span_id,
                (trail.created_at, ended_at),
                attributes=_about(trail.upload_id, trail.bucket, trail.size_bytes),
                parent_id=None,
            )

    def _on_settled(self, event: AttemptsSettled) -> None:
        for settled in event.attempts:
            if self._is_sampled(settled.trail.context):
                self._export_settled(settled)

    def _export_settled(self, event: AttemptSettled) -> None:
        """Export the attempt, and the whole upload if this was its end."""
        trail, verdict = event.trail, event.verdict
        ids = span_ids(trail.upload_id, trail.ordinal)
        times = (trail.claimed_at, event.settled_at)
        self._export_attempt(trail, trail.ordinal, times, verdict, (event.outcome.code, event.outcome.message))
        # the reactor's estimate of the database's clock is off by a millisecond or so: keep children inside the attempt
        settling_at = min(max(event.settling_at, trail.claimed_at), event.settled_at)
        about = _about(trail.upload_id, trail.bucket, trail.size_bytes)
        if event.put is not None:
            began = min(max(event.put[0], trail.claimed_at), settling_at)
            ended = min(max(event.put[1], began), settling_at)
            self._export(trail, "upload.put", ids.put, (began, ended), about, parent_id=ids.attempt)
        times = (settling_at, event.settled_at)
        attributes: dict[str, Attribute] = {"upload.id": about["upload.id"]}
        self._export(trail, "upload.settle", ids.settle, times, attributes, parent_id=ids.attempt)
        if verdict in (Verdict.STORED, Verdict.DEAD):
            self._export_whole(trail, event.settled_at, verdict, event.outcome.code)

    def _on_rescued(self, event: UploadRescued) -> None:
        """Export the attempt of a lost worker, and the whole upload if it is dead."""
        trail = event.trail
        if not self._is_sampled(trail.context):
            return
        if event.was_leased:
            self._export_lost(trail, trail.ordinal, (trail.claimed_at, event.rescued_at), event.verdict)
        elif trail.ordinal == 0:  # never claimed
            self._export_queued(trail, trail.created_at)
        if event.verdict is Verdict.DEAD:
            self._export_whole(trail, event.rescued_at, event.verdict, event.code)

    def _export_lost(self, trail: Trail, ordinal: int, times: tuple[float, float], verdict: Verdict) -> None:
        if ordinal == 1:
            self._export_queued(trail, times[0])  # again, because it may be lost with the worker
        failure = ("STORAGE_UNAVAILABLE", "the worker stopped without settling")
        self._export_attempt(trail, ordinal, times, verdict, failure)

    def _export_attempt(
        self,
        trail: Trail,
        ordinal: int,
        times: tuple[float, float],
        verdict: Verdict,
        failure: tuple[str | None, str | None],
    ) -> None:
        """Export this attempt or the one before; `failure` is its code and message."""
        is_this = ordinal == trail.ordinal
        has_failed = verdict in (Verdict.RETRY, Verdict.DEAD)
        code, message = failure
        attributes: dict[str, Attribute] = {
            **_about(trail.upload_id, trail.bucket, trail.size_bytes),
            # a lost attempt counts, so the attempt that takes over has the next number
            "upload.attempt": trail.attempt if is_this else trail.attempt - 1,
            "upload.outcome": verdict.value,
        }
        if is_this:
            attributes |= _lag(trail)
        if has_failed:
            attributes["error.type"] = code or ""
        context = trail.context
        self._spans.export(
            "upload.attempt",
            SpanKind.CONSUMER,
            context,
            span_ids(trail.upload_id, ordinal).attempt,
            times,
            attributes=attributes,
            parent_id=context.span_id,
            links=[(context.trace_id, span_ids(trail.upload_id, ordinal - 1).attempt)] if ordinal > 1 else (),
            error=message or "" if has_failed else None,
        )

    def _export_whole(self, trail: Trail, ended_at: float, verdict: Verdict, code: str | None) -> None:
        attributes: dict[str, Attribute] = {
            **_about(trail.upload_id, trail.bucket, trail.size_bytes),
            "upload.attempt": trail.attempt,
            "upload.outcome": verdict.value,
        }
        if code is not None:
            attributes["error.type"] = code
        span_id = span_ids(trail.upload_id, trail.ordinal).whole
        self._export(trail, "upload", span_id, (trail.created_at, ended_at), attributes)

    def _export(
        self,
        trail: Trail,
        name: str,
        span_id: bytes,
        times: tuple[float, float],
        attributes: Mapping[str, Attribute],
        *,
        parent_id: bytes | None = None,
    ) -> None:
        """Export a span of the upload, below `parent_id` or else below the row's place in the trace."""
        context = trail.context
        self._spans.export(
            name,
            _KINDS[name],
            context,
            span_id,
            times,
            attributes=attributes,
            parent_id=parent_id or context.span_id,
            is_parent_remote=parent_id is None,
        )

    # runs, and the reactor's own work

    def _on_expired(self, event: RunExpired) -> None:
        """Export, in the run's own trace, the time from the deadline until the run was failed."""
        context = event.context
        if self._is_sampled(context):
            self._spans.export(
                "interpretation.timeout",
                SpanKind.INTERNAL,
                context,
                timeout_span_id(event.run_id),
                (event.failed_at - event.late_s, event.failed_at),
                attributes={"interpretation.id": str(event.run_id), "error.type": event.code},
                parent_id=None if context.is_ours else context.span_id,
            )

    def _on_reconciled(self, event: Reconciled) -> None:
        """Export the pass, with links into the traces of what it changed."""
        context = context_of(None, event.pass_id)
        if self._is_sampled(context):
            self._spans.export(
                "reconcile",
                SpanKind.INTERNAL,
                context,
                context.span_id,
                (event.began_at, event.ended_at),
                attributes={"reconcile.changed": event.changed},
                parent_id=None,
                links=[(row.trace_id, row.span_id) for row in event.links[:MOST_LINKS]],
            )


def _lag(trail: Trail) -> dict[str, Attribute]:
    """Return how much later than due the upload was claimed."""
    due_at = trail.due_at if trail.waited_since is None else max(trail.due_at, trail.waited_since)
    return {"reactor.wheel_lag_ms": round(1000 * max(0.0, trail.claimed_at - due_at), 3)}


@lru_cache(_CACHE_SIZE)
def _about(upload_id: UUID, bucket: str, size_bytes: int) -> Mapping[str, Attribute]:
    """Return the attributes that most spans of an upload have."""
    return {"upload.id": str(upload_id), "upload.bucket": bucket, "upload.bytes": size_bytes}
