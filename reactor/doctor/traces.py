"""Check of the OTLP endpoint: whether a collector accepts traces.

The check sends an ExportTraceServiceRequest without spans, which protobuf encodes as zero bytes.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from http import HTTPStatus

from reactor.doctor.finding import Check, CheckGroup, Finding, ok, problem
from reactor.telemetry.collector import Collector, collector_of
from reactor.telemetry.exporter import ExportFailed, probe

_GRPC_PORT = ":4317"
_FIX = (
    "correct the variable: traces are sent as http/protobuf, to port 4318 of most collectors, or with "
    "OTEL_EXPORTER_OTLP_PROTOCOL=grpc to port 4317; OTEL_TRACES_EXPORTER=none exports none"
)


def traces_group(environ: Mapping[str, str]) -> CheckGroup:
    """Return the check of the collector that the OTEL_* variables name."""
    return CheckGroup([Check("traces", partial(_examine, environ), _FIX)])


def _examine(environ: Mapping[str, str]) -> Iterable[Finding]:
    """Send an empty request. A refusal is a problem, not a warning: the operator set the variables to get traces."""
    collector = collector_of(environ, "traces")
    if collector is None:
        return [ok("traces", "no traces are exported: OTEL_EXPORTER_OTLP_ENDPOINT is not set, or exporting is off")]
    try:
        probe(collector)
    except ExportFailed as refusal:
        return [_problem(collector, refusal)]
    return [ok("traces", f"{collector.name} accepts traces")]


def _problem(collector: Collector, refusal: ExportFailed) -> Finding:
    name = collector.name
    fix = f"start the collector, or correct {collector.variable}; until then no traces are exported"
    match refusal.status:
        case None:
            seen = f"{name} accepts no traces: {refusal.reason}"
            if name.endswith(_GRPC_PORT) and collector.protocol != "grpc":
                fix += "; 4317 is OTLP's gRPC port (OTEL_EXPORTER_OTLP_PROTOCOL=grpc), HTTP's is 4318"
        case 401 | 403:
            seen = f"{name} refuses the credentials ({refusal.status})"
            fix = "check OTEL_EXPORTER_OTLP_HEADERS (or …_TRACES_HEADERS)"
        case status if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            seen = f"{name} answers {status}: it accepts no traces at the moment"
        case status:
            seen = f"{name} answers {status}: this is not an OTLP traces endpoint"
            fix = (
                f"set {collector.variable} to the collector's OTLP/HTTP port (4318); /v1/traces is appended to "
                "OTEL_EXPORTER_OTLP_ENDPOINT, but not to OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
            )
    return problem("traces", seen, fix)
