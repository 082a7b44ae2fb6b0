"""The variables configure the SDK's exporters, and export failures are reported without secrets."""

import gzip
import logging
import socket
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace.export import SpanExportResult
from support.servers.fault_server import FaultServer, Request, answers, hangs
from support.servers.otlp_receiver import GrpcReceiver, receiving_grpc

from reactor.core.errors import ConfigInvalid
from reactor.telemetry.collector import Collector, collector_of
from reactor.telemetry.exporter import Exporter, ExportFailed, muted, probe, sdk_exporter

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SECRET = "s3cr3t"  # noqa: S105 - a marker to search for

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.fault = answers(200)
        yield server


@pytest.fixture
def received(server: FaultServer) -> list[tuple[dict[str, str], bytes]]:
    """The headers and body of each request."""
    requests = []

    def record(request: Request) -> None:
        requests.append(({name.lower(): value for name, value in request.headers.items()}, request.body()))
        request.answer(200)

    server.fault = record
    return requests


def collector_at(url: str, **variables: str) -> Collector:
    collector = collector_of({ENDPOINT: url} | variables, "traces")
    assert collector is not None
    return collector


def export(collector: Collector) -> tuple[SpanExportResult, list[ExportFailed]]:
    """Export an empty list; return the SDK's result and the failures of its requests."""
    failures: list[ExportFailed] = []
    exporter = sdk_exporter(collector, failures.append)
    with muted():
        result = exporter.export([])
    exporter.shutdown()
    return result, failures


def failure_of(collector: Collector) -> ExportFailed:
    """Return the failure of a probe of the collector."""
    with pytest.raises(ExportFailed) as failed:
        probe(collector)
    assert SECRET not in str(failed.value)
    return failed.value


# what is sent


def test_the_headers_are_sent(server: FaultServer, received: list[tuple[dict[str, str], bytes]]) -> None:
    collector = collector_at(server.endpoint, OTEL_EXPORTER_OTLP_HEADERS="a=1,b=x%20y")
    assert export(collector) == (SpanExportResult.SUCCESS, [])
    probe(collector)
    for headers, _ in received:
        assert (headers["a"], headers["b"]) == ("1", "x y")
        assert headers["content-type"] == "application/x-protobuf"
    assert len(received) == 2


def test_a_body_is_compressed_if_the_variable_says_so(
    server: FaultServer, received: list[tuple[dict[str, str], bytes]]
) -> None:
    export(collector_at(server.endpoint))
    export(collector_at(server.endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="gzip"))
    (plain, plain_body), (compressed, compressed_body) = received
    assert (plain.get("content-encoding"), plain_body) == (None, b"")
    assert (compressed.get("content-encoding"), gzip.decompress(compressed_body)) == ("gzip", b"")


def test_a_proxy_gets_its_own_credentials(
    server: FaultServer, received: list[tuple[dict[str, str], bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server acts as the proxy. The collector's host does not exist, so only the proxy can answer."""
    monkeypatch.setenv("http_proxy", server.endpoint.replace("//", "//me:p%40ss@"))
    export(collector_at("http://collector.invalid:4318"))
    [(headers, _)] = received
    assert headers["host"] == "collector.invalid:4318"
    assert headers["proxy-authorization"] == f"Basic {b64encode(b'me:p@ss').decode()}"
    assert "authorization" not in headers


def test_no_netrc_replaces_the_header(
    server: FaultServer,
    received: list[tuple[dict[str, str], bytes]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    export(collector_at(server.endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20x"))
    [(headers, _)] = received
    assert headers["authorization"] == "Bearer x"


# failures


@pytest.mark.parametrize("status", [301, 401, 404, 429, 500, 503])
def test_a_status_is_reported_and_no_redirect_is_followed(server: FaultServer, status: int) -> None:
    """A redirect would carry the headers to another host."""
    server.fault = answers(status, location=server.endpoint)
    failure = failure_of(collector_at(server.endpoint))
    assert (failure.status, failure.reason) == (status, f"it answered {status}")
    assert server.requests == ["POST /v1/traces"]


@pytest.mark.parametrize("status", [307, 400, 401, 413])
def test_the_sdk_repeats_no_request_that_is_refused_for_good(server: FaultServer, status: int) -> None:
    server.fault = answers(status, location=server.endpoint)
    result, failures = export(collector_at(server.endpoint))
    assert result is SpanExportResult.FAILURE
    assert {failure.status for failure in failures} == {status}
    assert server.requests == ["POST /v1/traces"]


def test_a_missing_answer_is_a_timeout(server: FaultServer) -> None:
    server.fault = hangs
    failure = failure_of(collector_at(server.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="200"))
    assert (failure.status, failure.reason) == (None, "no answer within 0.2 s")


def test_https_to_a_plain_port_fails_in_tls(server: FaultServer) -> None:
    url = server.endpoint.replace("http://", f"https://me:{SECRET}@")
    assert failure_of(collector_at(url)).reason.startswith("TLS fails (")


def test_an_invalid_certificate_file_is_reported(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(tmp_path / "ca.pem"))
    assert failure_of(collector_at(server.endpoint.replace("http", "https"))).reason.startswith("TLS fails (")


def test_an_impossible_host_is_reported() -> None:
    assert failure_of(collector_at(f"http://{SECRET * 20}")).reason.startswith("its URL or headers can't be sent")


def test_a_refused_connection_is_reported_in_the_systems_words() -> None:
    assert failure_of(collector_at(f"http://me:{SECRET}@127.0.0.1:1")).reason == "Connection refused"


def test_a_dead_proxy_is_not_taken_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:1")
    assert failure_of(collector_at("http://collector.invalid")).reason == "the proxy: Connection refused"


SETTINGS_FRAME = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"


@pytest.mark.parametrize(
    ("answer", "words"),
    [(SETTINGS_FRAME, "doesn't speak HTTP"), (b"", "closed the connection"), (b"HTTP/1.1 20", "doesn't speak HTTP")],
    ids=["gRPC", "nothing", "half a line"],
)
def test_a_server_of_another_protocol_is_recognized(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            conn, _ = listening.accept()
            with conn:
                conn.recv(65_536)
                conn.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        failure = failure_of(collector_at("http://{}:{}".format(*listening.getsockname())))
        thread.join()
    assert failure.status is None
    assert words in failure.reason


# gRPC


@pytest.fixture
def grpc_server() -> Iterator[GrpcReceiver]:
    with receiving_grpc() as receiver:
        yield receiver


def test_spans_and_metrics_are_exported_over_grpc(grpc_server: GrpcReceiver) -> None:
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=one"}
    url = grpc_server.endpoint.replace("//", "//me:p%40ss@")
    collector = collector_at(url, **variables)
    assert export(collector) == (SpanExportResult.SUCCESS, [])
    probe(collector)
    metrics = sdk_exporter(evolve(collector, signal="metrics"), lambda _: None)
    assert metrics.export(MetricsData(resource_metrics=[])) is MetricExportResult.SUCCESS
    metrics.shutdown()
    assert [name for name, _ in grpc_server.calls] == ["traces", "traces", "metrics"]
    for _, metadata in grpc_server.calls:
        assert (metadata["x-key"], metadata["authorization"]) == ("one", "Basic bWU6cEBzcw==")


def test_a_grpc_failure_is_reported() -> None:
    collector = collector_at(f"http://me:{SECRET}@127.0.0.1:1", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    failure = failure_of(collector)
    assert (failure.status, failure.reason) == (None, "the export failed")


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"])
def test_grpc_without_its_package_is_one_clear_line(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc", None)
    with pytest.raises(
        ConfigInvalid, match=f"^{variable} is grpc, .*pip install opentelemetry-exporter-otlp-proto-grpc"
    ):
        export(collector_at("http://c", **{variable: "grpc"}))


# logging


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://me:{}@127.0.0.1:1/{}?{}", "http/protobuf"),
        ("https://me:{}@{host}/{}?{}", "http/protobuf"),
        ("http://me:{}@{host}/{}?{}", "http/protobuf"),
        ("http://me:{}@127.0.0.1:1/{}?{}", "grpc"),
        ("http://me:{}@{host}", "grpc"),
    ],
)
def test_no_log_record_holds_a_secret(
    server: FaultServer, url: str, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While an export fails, the test captures every logger at DEBUG, also those of the SDK and of requests."""
    server.fault = answers(503)
    caplog.set_level(logging.DEBUG)
    for name in list(logging.Logger.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    collector = collector_at(
        url.format(SECRET, SECRET, SECRET, host=server.endpoint.removeprefix("http://")),
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_HEADERS=f"x-key={SECRET}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1500",
    )
    result, _ = export(collector)
    assert result is SpanExportResult.FAILURE
    assert SECRET not in caplog.text


def test_the_sdks_records_are_suppressed_only_when_muted(server: FaultServer, caplog: pytest.LogCaptureFixture) -> None:
    server.fault = answers(400)
    collector = collector_at(server.endpoint)
    exporter = sdk_exporter(collector, lambda _: None)
    exporter.export([])
    assert "Failed to export" in caplog.text
    caplog.clear()
    with muted():
        exporter.export([])
    assert not caplog.records
    exporter.shutdown()


def test_a_failure_is_logged_once_until_exports_succeed(server: FaultServer, log_lines: list[str]) -> None:
    exporter = Exporter(collector_at(server.endpoint))
    for status in (200, 400, 400, 400, 200, 200, 401):
        server.fault = answers(status)
        exporter.export([])
    exporter.shutdown()
    assert [line.partition(", after")[0] for line in log_lines] == [
        f"the collector at {server.endpoint} doesn't accept spans: it answered 400",
        f"the collector at {server.endpoint} accepts spans again",
        f"the collector at {server.endpoint} doesn't accept spans: it answered 401",
    ]
