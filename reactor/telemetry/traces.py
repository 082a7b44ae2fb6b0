"""Makes spans from events. An upload has one trace, from its queueing to its end:

    upload.queued ─┬─ upload.attempt ─── upload.put, upload.settle
    (a child of    ├─ upload.backoff
     the app's     ├─ upload.attempt ─── upload.put, upload.settle        each attempt has a link to the previous
     span, if any) ├─ …
                   └─ upload                                              from created to settled

Each span is made from one event, after the span has ended, so any reactors can contribute to a trace. The reactor that
claims an upload exports the wait before the claim, so a crash loses no wait. The reactor that takes over or rescues an
upload with an expired lease exports the lost attempt. Jaeger shows these traces without warnings: `upload.queued` is an
instant, its copies are equal, and no span is shorter than 1 µs (reactor/README.md, decision 44).
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
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import TraceContext, Trail, context_of, span_ids, timeout_span_id
from reactor.telemetry import span_attributes

Times = tuple[float, float]
"""Start and end in seconds since 1970."""

_MIN_UNPLANNED_WAIT_S = 1.0
"""The wait of an upload that is already due becomes a span if it is at least this long."""

_MAX_S = 9e9
"""Times are capped here, because an app may write any time, and a span has 64 bits for nanoseconds."""

_CACHE_SIZE = 10_000
_UNSET = Status(StatusCode.UNSET)
_MIN_NS = 1000
"""Minimum length of a span in nanoseconds."""

_MIN_S = 2e-6
"""Minimum length of a span inside an attempt: more than _MIN_NS, because a time is rounded to 0.24 µs."""

_LOST = "the worker stopped without settling"


class Traces:
    """Makes and exports spans from the events of sampled rows."""

    def __init__(
        self,
        export: Callable[[ReadableSpan], None],
        sampler: Sampler,
        resource: Resource,
        *,
        version: str,
        store_name: str,
    ) -> None:
        """`store_name` is `ObjectStore.name`."""
        self._export = export
        self._sampler = sampler
        self._resource = resource
        self._shared_resource = span_attributes.shared_resource(resource)
        self._store_name = store_name
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
        """Return the sampler's decision about `upload.queued`, the first of a row's spans."""
        if self._sampler is DEFAULT_ON:  # the default sampler: calling it takes as long as three spans
            return context.is_ours or bool(context.flags & TraceFlags.SAMPLED)
        trace_id, parent = int.from_bytes(context.trace_id), None
        if not context.is_ours:
            app = SpanContext(trace_id, int.from_bytes(context.span_id), True, TraceFlags(context.flags))
            parent = set_span_in_context(NonRecordingSpan(app))
        result = self._sampler.should_sample(parent, trace_id, "upload.queued", SpanKind.PRODUCER)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def _on_claimed(self, event: events.UploadsClaimed) -> None:
        """Export the spans before each claim: the queueing, a lost attempt, the wait."""
        for trail in event.trails:
            if not self._is_sampled(trail.context):
                continue
            since = trail.waited_since
            if since is not None and trail.lost_at is not None:
                self._export_lost(trail, (trail.lost_at, since), Verdict.RETRY, is_previous=True)
            has_waited = since is not None and (
                trail.due_at > since or trail.claimed_at - since >= _MIN_UNPLANNED_WAIT_S
            )
            if trail.ordinal == 1:
                self._export_queued(trail)
            if since is not None and has_waited:
                times = (since, trail.claimed_at)
                span_id = span_ids(trail.upload_id, trail.ordinal).backoff
                attributes = span_attributes.backoff(trail)
                self._export_span(
                    "upload.backoff", trail.context, span_id, times, attributes, parent_id=trail.queued_id
                )

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        """Export each attempt, and the whole upload if it is stored or dead."""
        for settled in event.attempts:
            trail, verdict, settled_at = settled.trail, settled.verdict, settled.settled_at
            context = trail.context
            if not self._is_sampled(context):
                continue
            ids = span_ids(trail.upload_id, trail.ordinal)
            self._export_attempt(trail, (trail.claimed_at, settled_at), settled.outcome)
            # keep children within the attempt: the reactor's estimate of the database's clock may err by a millisecond
            settling = _within((settled.settling_at, settled_at), (trail.claimed_at, settled_at))
            if settled.put is not None:
                times = _within(settled.put, (trail.claimed_at, settling[0]))
                attributes = span_attributes.put(trail, self._store_name)
                self._export_span("upload.put", context, ids.put, times, attributes, parent_id=ids.attempt)
            attributes = span_attributes.settle(trail)
            self._export_span("upload.settle", context, ids.settle, settling, attributes, parent_id=ids.attempt)
            if verdict in (Verdict.STORED, Verdict.DEAD):
                self._export_whole(trail, settled_at, settled.outcome)

    def _on_rescued(self, event: events.UploadRescued) -> None:
        """Export the attempt of a lost worker, and the whole upload if it is dead."""
        trail = event.trail
        if not self._is_sampled(trail.context):
            return
        if event.was_leased:
            self._export_lost(trail, (trail.claimed_at, event.rescued_at), event.verdict)
        elif trail.ordinal == 0:  # never claimed
            self._export_queued(trail)
        if event.verdict is Verdict.DEAD:
            self._export_whole(trail, event.rescued_at, Outcome(event.verdict, code=event.code))

    def _export_queued(self, trail: Trail) -> None:
        """Export the instant of the queueing: the root span, or a child of the app's span."""
        context, times = trail.context, (trail.created_at, trail.created_at)
        attributes, resource = span_attributes.queued(trail), self._shared_resource
        app_id = None if context.is_ours else context.span_id
        self._export_span(
            "upload.queued", context, trail.queued_id, times, attributes, parent_id=app_id, resource=resource
        )

    def _export_lost(self, trail: Trail, times: Times, verdict: Verdict, *, is_previous: bool = False) -> None:
        """Export an attempt whose worker stopped: the trail's, or the previous one."""
        if trail.ordinal - is_previous == 1:
            self._export_queued(trail)  # again: the lost worker may not have exported it
        outcome = Outcome(verdict, code="STORAGE_UNAVAILABLE", message=_LOST)
        self._export_attempt(trail, times, outcome, is_previous=is_previous)

    def _export_attempt(self, trail: Trail, times: Times, outcome: Outcome, *, is_previous: bool = False) -> None:
        """Export the trail's attempt, or the previous one."""
        ordinal, context = trail.ordinal - is_previous, trail.context
        attributes = span_attributes.attempt(trail, outcome, is_previous=is_previous)
        error = (outcome.message or "") if outcome.verdict in (Verdict.RETRY, Verdict.DEAD) else None
        links = [(context.trace_id, span_ids(trail.upload_id, ordinal - 1).attempt)] if ordinal > 1 else ()
        span_id, parent_id = span_ids(trail.upload_id, ordinal).attempt, trail.queued_id
        self._export_span(
            "upload.attempt", context, span_id, times, attributes, parent_id=parent_id, links=links, error=error
        )

    def _export_whole(self, trail: Trail, ended_at: float, outcome: Outcome) -> None:
        attributes = span_attributes.whole(trail, outcome)
        span_id, times = span_ids(trail.upload_id, trail.ordinal).whole, (trail.created_at, ended_at)
        self._export_span("upload", trail.context, span_id, times, attributes, parent_id=trail.queued_id)

    def _on_expired(self, event: events.RunExpired) -> None:
        """Export the time from the run's deadline until the run was failed, in the run's trace."""
        context, span_id = event.context, timeout_span_id(event.run_id)
        if self._is_sampled(context):
            times, attributes = (event.failed_at - event.late_s, event.failed_at), span_attributes.timeout(event)
            app_id = None if context.is_ours else context.span_id
            self._export_span("interpretation.timeout", context, span_id, times, attributes, parent_id=app_id)

    def _on_reconciled(self, event: events.Reconciled) -> None:
        """Export the pass, with links to the traces of the changed rows."""
        context = context_of(None, event.pass_id)
        if self._is_sampled(context):
            times, attributes = (event.began_at, event.ended_at), {"reconcile.changed": event.changed}
            links = [(row.trace_id, row.span_id) for row in event.links[: events.MOST_LINKS]]
            self._export_span("reconcile", context, context.span_id, times, attributes, parent_id=None, links=links)

    def _export_span(
        self,
        name: str,
        context: TraceContext,
        span_id: bytes,
        times: Times,
        attributes: span_attributes.Attributes,
        *,
        parent_id: bytes | None,
        links: Sequence[tuple[bytes, bytes]] = (),
        error: str | None = None,
        resource: Resource | None = None,
    ) -> None:
        """Export a span. `parent_id` None means a root span.

        A span that is shorter than 1 µs is made that long. `links` are pairs of trace id and span id. `error` is the
        message of a failure; None leaves the status unset. `resource` None means this reactor's.
        """
        # exported spans have the flag SAMPLED, even if the app's context lacks it
        trace_id, flags = int.from_bytes(context.trace_id), TraceFlags(context.flags | TraceFlags.SAMPLED)
        parent = None
        if parent_id is not None:
            # an attempt's put and settlement have a parent of the same process
            is_remote = name not in ("upload.put", "upload.settle")
            parent = SpanContext(trace_id, int.from_bytes(parent_id), is_remote, flags)
        start_ns = int(1e9 * min(max(times[0], 0.0), _MAX_S))
        end_ns = int(1e9 * min(max(times[1], 0.0), _MAX_S))
        self._export(
            ReadableSpan(
                name,
                context=SpanContext(trace_id, int.from_bytes(span_id), is_remote=False, trace_flags=flags),
                parent=parent,
                resource=resource or self._resource,
                attributes=attributes,
                links=[_link(*ids) for ids in links] if links else (),
                kind=span_attributes.KINDS.get(name, SpanKind.INTERNAL),
                status=_UNSET if error is None else Status(StatusCode.ERROR, error),
                start_time=start_ns,
                end_time=max(start_ns + _MIN_NS, end_ns),
                instrumentation_scope=self._scope,
            )
        )


def _within(times: Times, outer: Times) -> Times:
    """Return the times moved into `outer`, at least _MIN_S apart if `outer` is that long."""
    began = max(min(times[0], outer[1] - _MIN_S), outer[0])
    return began, min(max(times[1], began + _MIN_S), outer[1])


def _link(trace_id: bytes, span_id: bytes) -> Link:
    return Link(SpanContext(int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=True))
