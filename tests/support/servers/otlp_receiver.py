"""A collector for tests: takes OTLP over HTTP as the protocol says, decodes it with OpenTelemetry's own messages."""

import gzip
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

PATIENCE_S = 20.0


@frozen(kw_only=True)
class ReceivedSpan:
    """One span, as it came over the wire. Times are nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""

    name: str
    kind: str
    """INTERNAL, PRODUCER, CONSUMER, CLIENT."""

    start: int
    end: int
    attributes: dict[str, Any] = field(hash=False)
    links: tuple[tuple[str, str], ...]
    """Trace id and span id of each."""

    is_error: bool
    message: str
    flags: int
    resource: dict[str, Any] = field(hash=False, repr=False)


class Receiver:
    """What a collector was sent; and how it is to answer."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.answer: Callable[[], int | None] = lambda: 200
        """Called for each request: the status to answer, None to say nothing until the end."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        """Every body that was taken, unpacked."""
        self.requests: defaultdict[str, int] = defaultdict(int)
        """By path, taken or not."""
        self.spans: list[ReceivedSpan] = []
        self.metrics: dict[str, Any] = {}
        """The newest of each, by name."""
        self.closing = threading.Event()
        self._changed = threading.Condition()

    def wait(
        self, predicate: Callable[[Sequence[ReceivedSpan]], bool], within_s: float = PATIENCE_S
    ) -> list[ReceivedSpan]:
        """Return the spans once they are what is waited for. Fails when they aren't in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(self.spans), within_s):
                raise AssertionError("what came isn't it:\n" + "\n".join(map(str, self.spans)))
            return list(self.spans)

    def wait_for(self, name: str, count: int = 1) -> list[ReceivedSpan]:
        """Return all spans once there are so many of this name."""
        return self.wait(lambda spans: sum(span.name == name for span in spans) >= count)

    def wait_for_metric(self, name: str, within_s: float = PATIENCE_S) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.metrics, within_s), sorted(self.metrics)
            return self.metrics[name]

    def wait_for_request(self, path: str = "/v1/traces", count: int = 1) -> None:
        """Return once so many requests have come, however they were answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests[path] >= count, PATIENCE_S), self.requests

    def came(self, path: str, headers: dict[str, str]) -> None:
        with self._changed:
            self.requests[path] += 1
            self.headers.append(headers)
            self._changed.notify_all()

    def take(self, path: str, body: bytes) -> bytes:
        """Keep what a request brings; return the answer's body."""
        with self._changed:
            self.bodies.append(body)
            if path == "/v1/traces":
                self.spans += spans_of(body)
                response: bytes = ExportTraceServiceResponse().SerializeToString()
            elif path == "/v1/metrics":
                for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    for of_scope in of_resource.scope_metrics:
                        self.metrics.update({metric.name: metric for metric in of_scope.metrics})
                response = ExportMetricsServiceResponse().SerializeToString()
            else:
                raise AssertionError(path)
            self._changed.notify_all()
        return response


def spans_of(body: bytes) -> list[ReceivedSpan]:
    """Decode a request."""
    return [
        _span(span, _values(of_resource.resource.attributes))
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
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
    """Serve on loopback until left."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            path = urlsplit(self.path).path  # a proxy is asked for the whole URL
            receiver.came(path, {name.lower(): value for name, value in self.headers.items()})
            status = receiver.answer()
            if status is None:
                receiver.closing.wait()
                self.close_connection = True
                return
            response = receiver.take(path, body) if status == 200 else b""
            self.send_response_only(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: a client that was killed breaks its connections."""

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
