"""The collector is found by the standard variables, and whatever answers in its place is understood."""

import socket
import threading
from collections.abc import Iterator

import pytest
from fault_server import FaultServer, answers, hangs

from reactor.edge import collector as module
from reactor.edge.collector import Collector, collector, export_nothing

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def named(url: str) -> Collector:
    found = collector({ENDPOINT: url})
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({ENDPOINT: "http://c:4318"}, "http://c:4318/v1/traces"),
        ({ENDPOINT: "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({ENDPOINT: "http://c/otel"}, "http://c/otel/v1/traces"),
        ({TRACES_ENDPOINT: "http://c:4318"}, "http://c:4318"),
        ({ENDPOINT: "http://all", TRACES_ENDPOINT: "http://own/x"}, "http://own/x"),
        ({ENDPOINT: "http://all", TRACES_ENDPOINT: " "}, "http://all/v1/traces"),
    ],
)
def test_it_is_where_the_specification_says(environ: dict[str, str], url: str) -> None:
    found = collector(environ)
    assert found is not None
    assert found.url == url


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_is_none_where_none_is_wanted(environ: dict[str, str]) -> None:
    assert collector(environ) is None


def test_headers_for_traces_come_before_those_for_all() -> None:
    shared = {ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "a=1, b = x%20y ,nonsense"}
    found = collector(shared)
    assert found is not None
    assert found.headers == {"a": "1", "b": "x y"}
    found = collector(shared | {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "c=3"})
    assert found is not None
    assert found.headers == {"c": "3"}


def test_what_may_be_secret_is_not_in_its_words() -> None:
    found = collector({ENDPOINT: "http://me:secret@c:4318/secret?secret", "OTEL_EXPORTER_OTLP_HEADERS": "k=secret"})
    assert found is not None
    assert "secret" not in repr(found)
    assert found.address == "c:4318"


def test_a_status_is_the_answer(server: FaultServer) -> None:
    for status in (200, 202, 301, 404, 500):
        server.fault = answers(status, location=server.endpoint)
        assert export_nothing(named(server.endpoint)).status == status
    assert server.requests == ["POST /v1/traces"] * 5


def test_silence_is_given_up(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.2)
    server.fault = hangs
    assert export_nothing(named(server.endpoint)).failure == "no answer within 0.2 s"


def test_https_to_a_plain_port_fails_in_tls(server: FaultServer) -> None:
    failure = export_nothing(named(server.endpoint.replace("http", "https"))).failure
    assert failure.startswith("TLS fails (")


@pytest.mark.parametrize("url", ["http://", "ftp://c", "c:4318", "http://[", "http://c:x", "http://c/ d"])
def test_what_is_no_url_is_said(url: str) -> None:
    answer = export_nothing(named(url))
    assert answer.status is None
    assert "http:// or https://" in answer.failure


SETTINGS_FRAME = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"


@pytest.mark.parametrize(
    ("answer", "words"),
    [(SETTINGS_FRAME, "doesn't speak HTTP"), (b"", "closed the connection"), (b"HTTP/1.1 20", "doesn't speak HTTP")],
    ids=["gRPC", "nothing", "half a line"],
)
def test_what_speaks_another_protocol_is_said(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            conn, _ = listening.accept()
            with conn:
                conn.recv(65_536)
                conn.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        answered = export_nothing(named("http://127.0.0.1:{1}".format(*listening.getsockname())))
        thread.join()
    assert answered.status is None
    assert words in answered.failure
