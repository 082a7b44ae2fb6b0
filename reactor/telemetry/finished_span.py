"""The SDK's ReadableSpan, made after the fact: with ids, times and status that are already known."""

from collections.abc import Callable, Mapping, Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from reactor.core.trace_context import TraceContext

Attribute = str | int | float | bool

_UNSET = Status(StatusCode.UNSET)
_MAX_S = 9e9
"""An app may write any time; later ones don't fit into 64 bits of nanoseconds."""


class FinishedSpans:
    """Exports spans of one resource."""

    def __init__(self, export: Callable[[ReadableSpan], None], resource: Resource, version: str) -> None:
        self._export = export
        self._resource = resource
        self._scope = InstrumentationScope("reactor", version)

    def export(
        self,
        name: str,
        kind: SpanKind,
        context: TraceContext,
        span_id: bytes,
        times: tuple[float, float],
        *,
        attributes: Mapping[str, Attribute],
        parent_id: bytes | None,
        is_parent_remote: bool = True,
        links: Sequence[tuple[bytes, bytes]] = (),
        error: str | None = None,
    ) -> None:
        """Export a span of the context's trace.

        `times` are its start and end in seconds since 1970; an end before the start becomes the start. `links` are
        pairs of trace id and span id. `error` is the message of a failure; None leaves the status unset.
        """
        trace_id = int.from_bytes(context.trace_id)
        # exported spans are sampled, whatever the app's flags are
        flags = TraceFlags(context.flags | TraceFlags.SAMPLED)
        parent = None
        if parent_id is not None:
            parent = SpanContext(trace_id, int.from_bytes(parent_id), is_parent_remote, flags)
        start_ns, end_ns = _nanoseconds(times[0]), _nanoseconds(times[1])
        self._export(
            ReadableSpan(
                name,
                context=SpanContext(trace_id, int.from_bytes(span_id), is_remote=False, trace_flags=flags),
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                links=[_link(*ids) for ids in links] if links else (),
                kind=kind,
                status=_UNSET if error is None else Status(StatusCode.ERROR, error),
                start_time=start_ns,
                end_time=max(start_ns, end_ns),
                instrumentation_scope=self._scope,
            )
        )


def remote_parent(context: TraceContext) -> Context:
    """Return the context in which the SDK's samplers see the app's span as parent."""
    trace_id, span_id = int.from_bytes(context.trace_id), int.from_bytes(context.span_id)
    span_context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(context.flags))
    return set_span_in_context(NonRecordingSpan(span_context))


def _link(trace_id: bytes, span_id: bytes) -> Link:
    return Link(SpanContext(int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=True))


def _nanoseconds(seconds: float) -> int:
    if 0.0 <= seconds <= _MAX_S:
        return int(1e9 * seconds)
    return 0 if seconds < 0.0 else int(1e9 * _MAX_S)
