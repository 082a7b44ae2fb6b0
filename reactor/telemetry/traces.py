"""Makes spans from events. An upload has one trace, from its queueing to its end:

    upload.queued ─┬─ upload.attempt ─── upload.put, upload.settle
    (or the app's  ├─ upload.backoff
     own span)     ├─ upload.attempt ─── upload.put, upload.settle        each attempt has a link to the previous
                   ├─ …
                   └─ upload                                              from created to settled

Each span is made from one event, after the span has ended, so several reactors can contribute to a trace. The reactor
that claims an upload exports the wait before the claim, so a crash loses no wait. The reactor that takes over or
rescues an upload with an expired lease exports the lost attempt.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from reactor.core import events
from reactor.core.model import Verdict
from reactor.core.trace_context import TraceContext, Trail, context_of, span_ids, timeout_span_id

Attribute = str | int | float
Times = tuple[float, float]
"""Start and end in seconds since 1970."""

_MIN_UNPLANNED_WAIT_S = 1.0
"""The wait of an upload that is already due becomes a span if it is at least this long."""

_MAX_S = 9e9
"""Times are capped here, because an app may write any time, and a span has 64 bits for nanoseconds."""

_CACHE_SIZE = 10_000
_UNSET = Status(StatusCode.UNSET)

_KINDS = {
    "upload.queued": SpanKind.PRODUCER,
    "upload.attempt": SpanKind.CONSUMER,
    "upload.put": SpanKind.CLIENT,
    "upload.settle": SpanKind.CLIENT,
}
"""Maps names of spans to their kind. Other spans are INTERNAL."""


class Traces:
    """Makes and exports spans from the events of sampled rows."""

    def __init__(
        self, export: Callable[[ReadableSpan], None], sampler: Sampler, resource: Resource, *, version: str
    ) -> None:
        self._export = export
        self._sampler = sampler
        self._resource = resource
        self._scope = InstrumentationScope("reactor", version)
        self._is_sampled = lru_cache(_CACHE_SIZE)(self._decide)

    def subscriptions(self) -> Mapping[type[Any], Callable[[Any], None]]:
        """Return the method to call for each type of event."""
        return {
            events.UploadsClaimed: self._on_claimed,
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_rescued,
            events.RunExpired: self._on_expired,
            events.Reconciled: self._on_reconciled,
        }

    def _decide(self, context: TraceContext) -> bool:
        """Return the sampler's decision about the root span, or about `upload` if the app has the root span."""
        if self._sampler is DEFAULT_ON:  # the default sampler: calling it takes as long as three spans
            return context.is_ours or bool(context.flags & TraceFlags.SAMPLED)
        trace_id = int.from_bytes(context.trace_id)
        if context.is_ours:
            result = self._sampler.should_sample(None, trace_id, "upload.queued", SpanKind.PRODUCER)
        else:
            app = SpanContext(trace_id, int.from_bytes(context.span_id), True, TraceFlags(context.flags))
            parent = set_span_in_context(NonRecordingSpan(app))
            result = self._sampler.should_sample(parent, trace_id, "upload", SpanKind.CONSUMER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def _on_claimed(self, event: events.UploadsClaimed) -> None:
        """Export the spans before each claim: the queueing, a lost attempt, the wait."""
        for trail in event.trails:
            if not self._is_sampled(trail.context):
                continue
            since = trail.waited_since
            if since is not None and trail.lost_at is not None:
                self._export_lost(trail, trail.ordinal - 1, (trail.lost_at, since), Verdict.RETRY)
            has_waited = since is not None and (
                trail.due_at > since or trail.claimed_at - since >= _MIN_UNPLANNED_WAIT_S
            )
            if trail.ordinal == 1:
                self._export_queued(trail, trail.created_at if has_waited else trail.claimed_at)
            if since is not None and has_waited:
                times = (since, trail.claimed_at)
                attributes = {"upload.id": str(trail.upload_id), "upload.attempt": trail.attempt, **_lag(trail)}
                span_id = span_ids(trail.upload_id, trail.ordinal).backoff
                self._export_span("upload.backoff", trail.context, span_id, times, attributes)

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        """Export each attempt, and the whole upload if it is stored or dead."""
        for settled in event.attempts:
            trail, verdict, settled_at = settled.trail, settled.verdict, settled.settled_at
            context = trail.context
            if not self._is_sampled(context):
                continue
            ids, about = span_ids(trail.upload_id, trail.ordinal), _about(trail)
            failure = (settled.outcome.code or "", settled.outcome.message or "")
            self._export_attempt(trail, trail.ordinal, (trail.claimed_at, settled_at), verdict, failure)
            # keep child spans within the attempt's span, although the estimated database time may err by a millisecond
            settling_at = min(max(settled.settling_at, trail.claimed_at), settled_at)
            if settled.put is not None:
                began = min(max(settled.put[0], trail.claimed_at), settling_at)
                ended = min(max(settled.put[1], began), settling_at)
                self._export_span("upload.put", context, ids.put, (began, ended), about, parent_id=ids.attempt)
            times, attributes = (settling_at, settled_at), {"upload.id": about["upload.id"]}
            self._export_span("upload.settle", context, ids.settle, times, attributes, parent_id=ids.attempt)
            if verdict in (Verdict.STORED, Verdict.DEAD):
                self._export_whole(trail, settled_at, verdict, settled.outcome.code)

    def _on_rescued(self, event: events.UploadRescued) -> None:
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

    def _export_queued(self, trail: Trail, ended_at: float) -> None:
        """Export the root span, from the queueing until `ended_at`, unless the app has the root span."""
        context = trail.context
        if context.is_ours:
            times = (trail.created_at, ended_at)
            self._export_span("upload.queued", context, context.span_id, times, _about(trail), is_root=True)

    def _export_lost(self, trail: Trail, ordinal: int, times: Times, verdict: Verdict) -> None:
        if ordinal == 1:
            self._export_queued(trail, times[0])  # again: the lost worker may not have exported it
        failure = ("STORAGE_UNAVAILABLE", "the worker stopped without settling")
        self._export_attempt(trail, ordinal, times, verdict, failure)

    def _export_attempt(
        self, trail: Trail, ordinal: int, times: Times, verdict: Verdict, failure: tuple[str, str]
    ) -> None:
        """Export the trail's attempt, or the previous one if `ordinal` is one less. `failure` is (code, message)."""
        is_this = ordinal == trail.ordinal
        attributes: dict[str, Attribute] = {
            **_about(trail),
            # a lost attempt is counted, so the attempt that takes over has the next number
            "upload.attempt": trail.attempt if is_this else trail.attempt - 1,
            "upload.outcome": verdict.value,
        }
        if is_this:
            attributes |= _lag(trail)
        context, error = trail.context, None
        if verdict in (Verdict.RETRY, Verdict.DEAD):
            attributes["error.type"], error = failure
        links = [(context.trace_id, span_ids(trail.upload_id, ordinal - 1).attempt)] if ordinal > 1 else ()
        span_id = span_ids(trail.upload_id, ordinal).attempt
        self._export_span("upload.attempt", context, span_id, times, attributes, links=links, error=error)

    def _export_whole(self, trail: Trail, ended_at: float, verdict: Verdict, code: str | None) -> None:
        attributes = {**_about(trail), "upload.attempt": trail.attempt, "upload.outcome": verdict.value}
        if code is not None:
            attributes["error.type"] = code
        span_id = span_ids(trail.upload_id, trail.ordinal).whole
        self._export_span("upload", trail.context, span_id, (trail.created_at, ended_at), attributes)

    def _on_expired(self, event: events.RunExpired) -> None:
        """Export the time from the run's deadline until the run was failed, in the run's trace."""
        context, span_id = event.context, timeout_span_id(event.run_id)
        if self._is_sampled(context):
            times = (event.failed_at - event.late_s, event.failed_at)
            attributes = {"interpretation.id": str(event.run_id), "error.type": event.code}
            self._export_span("interpretation.timeout", context, span_id, times, attributes, is_root=context.is_ours)

    def _on_reconciled(self, event: events.Reconciled) -> None:
        """Export the pass, with links to the traces of the changed rows."""
        context = context_of(None, event.pass_id)
        if self._is_sampled(context):
            times, attributes = (event.began_at, event.ended_at), {"reconcile.changed": event.changed}
            links = [(row.trace_id, row.span_id) for row in event.links[: events.MOST_LINKS]]
            self._export_span("reconcile", context, context.span_id, times, attributes, is_root=True, links=links)

    def _export_span(
        self,
        name: str,
        context: TraceContext,
        span_id: bytes,
        times: Times,
        attributes: Mapping[str, Attribute],
        *,
        is_root: bool = False,
        parent_id: bytes | None = None,
        links: Sequence[tuple[bytes, bytes]] = (),
        error: str | None = None,
    ) -> None:
        """Export a span with the parent `parent_id`, or the row's trace context if that is None.

        An end before the start is replaced by the start. `links` are pairs of trace id and span id. `error` is the
        message of a failure; None leaves the status unset.
        """
        # exported spans have the flag SAMPLED, even if the app's context lacks it
        trace_id, flags = int.from_bytes(context.trace_id), TraceFlags(context.flags | TraceFlags.SAMPLED)
        parent = None
        if not is_root:
            parent = SpanContext(trace_id, int.from_bytes(parent_id or context.span_id), parent_id is None, flags)
        start_ns = int(1e9 * min(max(times[0], 0.0), _MAX_S))
        end_ns = int(1e9 * min(max(times[1], 0.0), _MAX_S))
        self._export(
            ReadableSpan(
                name,
                context=SpanContext(trace_id, int.from_bytes(span_id), is_remote=False, trace_flags=flags),
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=[_link(*ids) for ids in links] if links else (),
                kind=_KINDS.get(name, SpanKind.INTERNAL),
                status=_UNSET if error is None else Status(StatusCode.ERROR, error),
                start_time=start_ns,
                end_time=max(start_ns, end_ns),
                instrumentation_scope=self._scope,
            )
        )


def _link(trace_id: bytes, span_id: bytes) -> Link:
    return Link(SpanContext(int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=True))


def _lag(trail: Trail) -> Mapping[str, Attribute]:
    """Return the attribute for the time from the due time of the upload until its claim."""
    due_at = trail.due_at if trail.waited_since is None else max(trail.due_at, trail.waited_since)
    return {"reactor.wheel_lag_ms": round(1000 * max(0.0, trail.claimed_at - due_at), 3)}


@lru_cache(_CACHE_SIZE)
def _about(trail: Trail) -> Mapping[str, Attribute]:
    """Return the attributes that most spans of an upload have."""
    return {"upload.id": str(trail.upload_id), "upload.bucket": trail.bucket, "upload.bytes": trail.size_bytes}
