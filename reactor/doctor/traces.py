"""The OTLP endpoint: does anybody take the traces."""

from collections.abc import Iterator
from functools import partial

from reactor.doctor.finding import Check, Finding, Group, ok, problem
from reactor.edge.collector import Collector, export_nothing

_TOO_MANY = 429


def traces_group(collector: Collector | None) -> Group:
    """Return the check of the collector that the OTEL_* variables name, None: no one."""
    if collector is None:
        return Group(checks=[Check(name="traces", examine=_none, fix="")])
    fix = f"start the collector, or correct {collector.setting}; without it no traces are exported"
    return Group(checks=[Check(name="traces", examine=partial(_ask, collector, fix), fix=fix)])


def _none() -> Iterator[Finding]:
    yield ok("traces", "no traces are exported: OTEL_EXPORTER_OTLP_ENDPOINT isn't set")


def _ask(collector: Collector, fix: str) -> Iterator[Finding]:
    """Spans are lost where nobody takes them; work never is. Still a problem: somebody wanted them."""
    if collector.protocol != "http/protobuf":
        yield problem(
            "traces",
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {collector.protocol!r}, and the reactor speaks OTLP in protobuf over HTTP",
            f"set it to http/protobuf, and {collector.setting} to the collector's HTTP port (4318)",
        )
        return
    answer = export_nothing(collector)
    where = collector.address
    match answer.status:
        case None:
            yield problem("traces", f"{where} takes no traces: {answer.failure}", _towards_http(collector, fix))
        case status if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own
            yield ok("traces", f"{where} takes traces")
        case 401 | 403:
            yield problem(
                "traces",
                f"{where} refuses the credentials ({answer.status})",
                "check OTEL_EXPORTER_OTLP_HEADERS (or …_TRACES_HEADERS)",
            )
        case status if status == _TOO_MANY or status >= 500:  # noqa: PLR2004 - HTTP's own
            yield problem("traces", f"{where} answers {status}: it takes no traces at the moment", fix)
        case status:
            yield problem(
                "traces",
                f"{where} answers {status}: this is no place for OTLP traces",
                f"let {collector.setting} name the collector's OTLP/HTTP port (4318); to OTEL_EXPORTER_OTLP_ENDPOINT "
                "/v1/traces is added, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it is",
            )


def _towards_http(collector: Collector, fix: str) -> str:
    is_grpc_port = collector.address.endswith(":4317")
    return f"{fix}; 4317 is OTLP's gRPC port, HTTP's is 4318" if is_grpc_port else fix
