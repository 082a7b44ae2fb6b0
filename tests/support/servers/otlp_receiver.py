"""Collectors for tests. They receive OTLP over HTTP or gRPC, and decode it with OpenTelemetry's message classes."""

import gzip
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import grpc
from attrs import field, frozen
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_TIMEOUT_S = 20.0


@frozen(kw_only=True)
class ReceivedSpan:
    """One span, as received. Times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""

    name: str
    kind: str
    """INTERNAL, PRODUCER, CONSUMER or CLIENT."""

    start: int
    end: int
    attributes: dict[str, Any] = field(hash=False)
    links: tuple[tuple[str, str], ...]
    """Trace id and span id of each link."""

    is_error: bool
    message: str
    flags: int
    resource: dict[str, Any] = field(hash=False, repr=False)


class Receiver:
    """The requests that a collector has received, and a function that chooses its answers."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.answer: Callable[[], int | None] = lambda: 200
        """Called for each request; returns the status of the answer, or None to hang until the end."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        """The body of every accepted request, decompressed."""
        self.requests: defaultdict[str, int] = defaultdict(int)
        """Number of requests by path, whether accepted or not."""
        self.spans: list[ReceivedSpan] = []
        self.metrics: dict[str, Any] = {}
        """The newest value of each metric, by name."""
        self.closing = threading.Event()
        self._changed = threading.Condition()

    def wait(
        self, predicate: Callable[[Sequence[ReceivedSpan]], bool], within_s: float = _TIMEOUT_S
    ) -> list[ReceivedSpan]:
        """Wait until `predicate` is true for the spans; return the spans. Fails after `within_s`."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self.spans), within_s):
                raise AssertionError("the spans received:\n" + "\n".join(map(str, self.spans)))
            return list(self.spans)

    def wait_for(self, name: str, count: int = 1) -> list[ReceivedSpan]:
        """Wait until `count` spans have this name; return all spans."""
        return self.wait(lambda spans: sum(span.name == name for span in spans) >= count)

    def wait_for_metric(self, name: str, within_s: float = _TIMEOUT_S) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.metrics, within_s), sorted(self.metrics)
            return self.metrics[name]

    def wait_for_request(self, path: str = "/v1/traces", count: int = 1) -> None:
        """Wait until `count` requests have arrived at this path, whatever their answers were."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests[path] >= count, _TIMEOUT_S), self.requests

    def record_request(self, path: str, headers: dict[str, str]) -> None:
        with self._changed:
            self.requests[path] += 1
            self.headers.append(headers)
            self._changed.notify_all()

    def accept(self, path: str, body: bytes) -> bytes:
        """Decode and keep a request's body; return the response's body."""
        with self._changed:
            self.bodies.append(body)
            if path == "/v1/traces":
                self.spans += spans_of(body)
                response: bytes = ExportTraceServiceResponse().SerializeToString()
            elif path == "/v1/metrics":
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for scope in resource.scope_metrics:
                        self.metrics.update({metric.name: metric for metric in scope.metrics})
                response = ExportMetricsServiceResponse().SerializeToString()
            else:
                raise AssertionError(path)
            self._changed.notify_all()
        return response


def spans_of(body: bytes) -> list[ReceivedSpan]:
    """Return the spans of a request's body."""
    return [
        _span(span, _values(resource.resource.attributes))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        message=span.status.message,
        flags=span.flags,
        resource=resource,
    )


def _values(pairs: Sequence[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run a collector over HTTP on loopback."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            path = urlsplit(self.path).path  # a request to a proxy contains the whole URL
            receiver.record_request(path, {name.lower(): value for name, value in self.headers.items()})
            status = receiver.answer()
            if status is None:
                receiver.closing.wait()
                self.close_connection = True
                return
            response = receiver.accept(path, body) if status == 200 else b""
            self.send_response_only(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Print nothing, because a killed client breaks its connections."""

    server = Server(("127.0.0.1", port), Handler)
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class GrpcReceiver:
    """The requests that a collector has received over gRPC."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.calls: list[tuple[str, dict[str, str | bytes]]] = []
        """('traces' or 'metrics', metadata) of each request."""


@contextmanager
def receiving_grpc() -> Iterator[GrpcReceiver]:
    """Run a collector over gRPC on loopback. It accepts everything."""
    receiver = GrpcReceiver()

    class Traces(TraceServiceServicer):
        def Export(self, _request: Any, context: grpc.ServicerContext) -> ExportTraceServiceResponse:  # noqa: N802
            receiver.calls.append(("traces", dict(context.invocation_metadata())))
            return ExportTraceServiceResponse()

    class Metrics(MetricsServiceServicer):
        def Export(self, _request: Any, context: grpc.ServicerContext) -> ExportMetricsServiceResponse:  # noqa: N802
            receiver.calls.append(("metrics", dict(context.invocation_metadata())))
            return ExportMetricsServiceResponse()

    with ThreadPoolExecutor(max_workers=2) as threads:
        server = grpc.server(threads)
        add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]  # generated
        add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]  # generated
        receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield receiver
        finally:
            server.stop(grace=None).wait()
