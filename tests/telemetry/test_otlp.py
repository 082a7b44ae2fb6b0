"""The collector is found by the standard variables, and whatever answers in its place is understood."""

import gzip
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.fault_server import FaultServer, Request, answers, hangs

from reactor.core.errors import ConfigInvalid
from reactor.telemetry.otlp import Collector, NotTaken, collector_of

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
SECRET = "s3cr3t"  # noqa: S105 - a mark to look for


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy this machine has, loopback isn't behind it."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        server.fault = answers(200)
        yield server


@pytest.fixture
def brought(server: FaultServer) -> list[tuple[dict[str, str], bytes]]:
    """The headers and bodies that came."""
    came = []

    def remembers(request: Request) -> None:
        came.append(({name.lower(): value for name, value in request.headers.items()}, request.body()))
        request.answer(200)

    server.fault = remembers
    return came


def named(url: str, **variables: str) -> Collector:
    found = collector_of({ENDPOINT: url} | variables, "traces")
    assert found is not None
    return found


def refusal(collector: Collector) -> NotTaken:
    """Send nothing, which isn't taken."""
    with pytest.raises(NotTaken) as refused:
        collector.send(b"")
    collector.close()
    assert SECRET not in str(refused.value)
    return refused.value


def deliver(collector: Collector, body: bytes = b"") -> None:
    collector.send(body)
    collector.close()


# where it is


@pytest.mark.parametrize(
    ("environ", "path", "variable"),
    [
        ({ENDPOINT: "{}"}, "/v1/traces", ENDPOINT),
        ({ENDPOINT: "{}/"}, "/v1/traces", ENDPOINT),
        ({ENDPOINT: "{}/otel"}, "/otel/v1/traces", ENDPOINT),
        ({TRACES_ENDPOINT: "{}"}, "/", TRACES_ENDPOINT),
        ({ENDPOINT: "http://all", TRACES_ENDPOINT: "{}/x?y=z"}, "/x?y=z", TRACES_ENDPOINT),
        ({ENDPOINT: "{}", TRACES_ENDPOINT: " "}, "/v1/traces", ENDPOINT),
    ],
)
def test_it_is_where_the_specification_says(
    server: FaultServer, environ: dict[str, str], path: str, variable: str
) -> None:
    found = collector_of({name: url.format(server.endpoint) for name, url in environ.items()}, "traces")
    assert found is not None
    deliver(found)
    assert server.requests == [f"POST {path}"]
    assert (found.variable, found.name) == (variable, server.endpoint)


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
    assert collector_of(environ, "traces") is None


@pytest.mark.parametrize(
    "url",
    ["http://", "ftp://c", "c:4318", "127.0.0.1:4318", "http://[", "http://c:x", f"http://c:{SECRET}@:1", "http://c d"],
)
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{ENDPOINT} must be an http:// or https:// URL") as refused:
        named(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"http://me:{SECRET}@c:4318/{SECRET}?{SECRET}", "http://c:4318"),
        ("https://c", "https://c"),
        ("http://[::1]:4318", "http://[::1]:4318"),
    ],
)
def test_its_name_is_what_may_be_shown_of_its_url(url: str, name: str) -> None:
    assert named(url).name == name


# what it is sent


def test_headers_for_traces_come_before_those_for_all(
    server: FaultServer, brought: list[tuple[dict[str, str], bytes]]
) -> None:
    shared = {HEADERS: "a=1, b = x%20y ,"}
    deliver(named(server.endpoint, **shared))
    deliver(named(server.endpoint, **shared, OTEL_EXPORTER_OTLP_TRACES_HEADERS="c=3"))
    (first, _), (second, _) = brought
    assert (first["a"], first["b"]) == ("1", "x y")
    assert second["c"] == "3"
    assert not {"a", "b"} & second.keys()
    assert first["content-type"] == second["content-type"] == "application/x-protobuf"


@pytest.mark.parametrize("text", [SECRET, f"a=1,{SECRET}", f"a={SECRET}%0Ab", f"a b={SECRET}"])
def test_headers_that_cannot_be_read_are_said(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{HEADERS} must be name=value pairs") as refused:
        named("http://c", **{HEADERS: text})
    assert SECRET not in str(refused.value)


def test_a_user_in_the_url_is_sent_in_utf8_unless_a_header_says_otherwise(
    server: FaultServer, brought: list[tuple[dict[str, str], bytes]]
) -> None:
    url = server.endpoint.replace("//", "//m%C3%A9:%E2%82%AC%40@")
    deliver(named(url))
    deliver(named(url, **{HEADERS: "Authorization=Bearer%20x"}))
    assert [headers["authorization"] for headers, _ in brought] == [
        f"Basic {b64encode('mé:€@'.encode()).decode()}",
        "Bearer x",
    ]


def test_a_body_is_packed_where_that_is_wanted(
    server: FaultServer, brought: list[tuple[dict[str, str], bytes]]
) -> None:
    deliver(named(server.endpoint), b"body")
    deliver(named(server.endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="gzip"), b"body")
    (plain, plain_body), (packed, packed_body) = brought
    assert (plain.get("content-encoding"), plain_body) == (None, b"body")
    assert (packed.get("content-encoding"), gzip.decompress(packed_body)) == ("gzip", b"body")


def test_a_proxy_is_asked_with_its_own_credentials(
    server: FaultServer, brought: list[tuple[dict[str, str], bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is asked for the whole URL of a host that nobody has."""
    monkeypatch.setenv("http_proxy", server.endpoint.replace("//", "//me:p%40ss@"))
    deliver(named("http://collector.invalid:4318"))
    [(headers, _)] = brought
    assert headers["host"] == "collector.invalid:4318"
    assert headers["proxy-authorization"] == f"Basic {b64encode(b'me:p@ss').decode()}"
    assert "authorization" not in headers


def test_a_proxy_that_is_no_url_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"me:{SECRET}@proxy")
    with pytest.raises(ConfigInvalid, match=r"^http_proxy must be an http:// or https:// URL") as refused:
        named("http://collector.invalid")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"])
def test_a_file_for_tls_that_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=f"^OTEL_EXPORTER_OTLP_{name} must name a file that can be read"):
        named("https://c", **{f"OTEL_EXPORTER_OTLP_{name}": str(tmp_path / "none.pem")})


# what comes of it


@pytest.mark.parametrize(
    ("status", "is_lasting"),
    [(301, True), (401, True), (404, True), (429, False), (500, True), (503, False)],
)
def test_a_status_is_the_answer(server: FaultServer, status: int, is_lasting: bool) -> None:
    server.fault = answers(status, location=server.endpoint)
    refused = refusal(named(server.endpoint))
    assert (refused.status, refused.is_lasting, refused.reason) == (status, is_lasting, f"it answered {status}")
    assert server.requests == ["POST /v1/traces"]  # no redirect is followed, and nothing tried again


@pytest.mark.parametrize(("wish", "retry_after_s"), [("7", 7.0), ("86400", 30.0), ("soon", 0.0), ("-1", 0.0)])
def test_its_wish_when_to_come_again_is_heard_within_reason(
    server: FaultServer, wish: str, retry_after_s: float
) -> None:
    server.fault = answers(503, retry_after=wish)
    assert refusal(named(server.endpoint)).retry_after_s == retry_after_s


def test_silence_is_given_up(server: FaultServer) -> None:
    server.fault = hangs
    refused = refusal(named(server.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="200"))
    assert (refused.status, refused.reason) == (None, "no answer within 0.2 s")


def test_https_to_a_plain_port_fails_in_tls(server: FaultServer) -> None:
    url = server.endpoint.replace("http://", f"https://me:{SECRET}@")
    assert refusal(named(url)).reason.startswith("TLS fails (")


def test_a_certificate_that_is_none_fails_in_tls(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    collector = named("https://127.0.0.1:1", OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "ca.pem"))
    assert "refused" in refusal(collector).reason  # it is read once somebody answers
    url = server.endpoint.replace("http", "https")
    collector = named(url, OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "ca.pem"))
    assert refusal(collector).reason.startswith("TLS fails (")


def test_a_host_that_cannot_be_one_is_said() -> None:
    assert refusal(named(f"http://{SECRET * 20}")).reason.startswith("its URL or headers can't be sent")


def test_nobody_there_is_said_in_the_systems_words() -> None:
    assert refusal(named(f"http://me:{SECRET}@127.0.0.1:1")).reason == "Connection refused"


def test_a_dead_proxy_is_not_taken_for_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:1")
    assert refusal(named("http://collector.invalid")).reason == "the proxy: Connection refused"


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
        refused = refusal(named("http://{}:{}".format(*listening.getsockname())))
        thread.join()
    assert refused.status is None
    assert words in refused.reason
