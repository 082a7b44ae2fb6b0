"""The OTLP endpoint: does anybody take the traces.

What is sent is an ExportTraceServiceRequest without a span in it, which in protobuf is no byte at all.
"""

from collections.abc import Iterable, Mapping
from functools import partial

from reactor.doctor.finding import Check, Finding, Group, ok, problem
from reactor.telemetry.collector import Collector, ExportFailed, collector_of
from reactor.telemetry.exporter import probe

_TOO_MANY = 429
_GRPC_PORT = ":4317"
_FIX = (
    "correct the variable: traces are sent as http/protobuf, to port 4318 of most collectors; "
    "OTEL_TRACES_EXPORTER=none exports none"
)


def traces_group(environ: Mapping[str, str]) -> Group:
    """Return the check of the collector that the OTEL_* variables name, if they do."""
    return Group(checks=[Check(name="traces", examine=partial(_examine, environ), fix=_FIX)])


def _examine(environ: Mapping[str, str]) -> Iterable[Finding]:
    """Spans are lost where nobody takes them; work never is. Still a problem: somebody wanted them."""
    collector = collector_of(environ, "traces")
    if collector is None:
        return [ok("traces", "no traces are exported: OTEL_EXPORTER_OTLP_ENDPOINT isn't set, or exporting is off")]
    try:
        probe(collector)
    except ExportFailed as refusal:
        return [_problem(collector, refusal)]
    return [ok("traces", f"{collector.name} takes traces")]


def _problem(collector: Collector, refusal: ExportFailed) -> Finding:
    where = collector.name
    fix = f"start the collector, or correct {collector.variable}; without it no traces are exported"
    match refusal.status:
        case None:
            seen = f"{where} takes no traces: {refusal.reason}"
            if where.endswith(_GRPC_PORT):
                fix += "; 4317 is OTLP's gRPC port, HTTP's is 4318"
        case 401 | 403:
            seen = f"{where} refuses the credentials ({refusal.status})"
            fix = "check OTEL_EXPORTER_OTLP_HEADERS (or …_TRACES_HEADERS)"
        case status if status == _TOO_MANY or status >= 500:  # noqa: PLR2004 - HTTP's own
            seen = f"{where} answers {status}: it takes no traces at the moment"
        case status:
            seen = f"{where} answers {status}: this is no place for OTLP traces"
            fix = (
                f"let {collector.variable} name the collector's OTLP/HTTP port (4318); to OTEL_EXPORTER_OTLP_ENDPOINT "
                "/v1/traces is added, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it is"
            )
    return problem("traces", seen, fix)
