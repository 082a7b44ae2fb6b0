"""The OTEL_* variables select the collector as the specification says; an error names the variable without a secret."""

from pathlib import Path

import pytest

from reactor.core.errors import ConfigInvalid
from reactor.telemetry.collector import Collector, collector_of, positive_int

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
SECRET = "s3cr3t"  # noqa: S105 - a marker to search for


def collector_at(url: str, **variables: str) -> Collector:
    collector = collector_of({ENDPOINT: url} | variables, "traces")
    assert collector is not None
    return collector


@pytest.mark.parametrize(
    ("environ", "url", "variable"),
    [
        ({ENDPOINT: "http://c"}, "http://c/v1/traces", ENDPOINT),
        ({ENDPOINT: "http://c/"}, "http://c/v1/traces", ENDPOINT),
        ({ENDPOINT: "http://c/otel"}, "http://c/otel/v1/traces", ENDPOINT),
        ({ENDPOINT: "http://c:4317", PROTOCOL: "grpc"}, "http://c:4317", ENDPOINT),
        ({TRACES_ENDPOINT: "http://c"}, "http://c", TRACES_ENDPOINT),
        ({ENDPOINT: "http://all", TRACES_ENDPOINT: "http://c/x?y=z"}, "http://c/x?y=z", TRACES_ENDPOINT),
        ({ENDPOINT: "http://c", TRACES_ENDPOINT: " "}, "http://c/v1/traces", ENDPOINT),
    ],
)
def test_the_url_is_built_as_the_specification_says(environ: dict[str, str], url: str, variable: str) -> None:
    collector = collector_of(environ, "traces")
    assert collector is not None
    assert (collector.url, collector.variable) == (url, variable)


def test_each_signal_has_its_own_path_and_variables() -> None:
    environ = {ENDPOINT: "http://c", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}
    traces, metrics = collector_of(environ, "traces"), collector_of(environ, "metrics")
    assert traces is not None
    assert metrics is not None
    assert (traces.url, traces.protocol) == ("http://c", "grpc")
    assert (metrics.url, metrics.protocol) == ("http://c/v1/metrics", "http")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {ENDPOINT: ""},
        {ENDPOINT: "http://c", "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: "http://c", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_there_is_no_collector_without_an_endpoint_or_when_export_is_off(environ: dict[str, str]) -> None:
    assert collector_of(environ, "traces") is None


@pytest.mark.parametrize(
    "url",
    ["http://", "ftp://c", "c:4318", "127.0.0.1:4318", "http://[", "http://c:x", f"http://c:{SECRET}@:1", "http://c d"],
)
def test_an_invalid_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{ENDPOINT} must be an http:// or https:// URL") as refused:
        collector_at(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"http://me:{SECRET}@c:4318/{SECRET}?{SECRET}", "http://c:4318"),
        ("https://c", "https://c"),
        ("http://[::1]:4318", "http://[::1]:4318"),
    ],
)
def test_the_name_holds_no_secret_of_the_url(url: str, name: str) -> None:
    collector = collector_at(url, **{HEADERS: f"x-key={SECRET}"})
    assert collector.name == name
    assert SECRET not in repr(collector)


def test_headers_of_the_signal_replace_the_general_ones() -> None:
    general = {HEADERS: "a=1, B = x%20y ,"}
    assert collector_at("http://c", **general).headers == {"a": "1", "b": "x y"}
    specific = {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "c=3"}
    assert collector_at("http://c", **general, **specific).headers == {"c": "3"}


@pytest.mark.parametrize("text", [SECRET, f"a=1,{SECRET}", f"a={SECRET}%0Ab", f"a b={SECRET}"])
def test_invalid_headers_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"^{HEADERS} must be name=value pairs") as refused:
        collector_at("http://c", **{HEADERS: text})
    assert SECRET not in str(refused.value)


def test_a_user_of_the_url_becomes_a_header_in_utf8_unless_another_header_is_set() -> None:
    url = "http://m%C3%A9:%E2%82%AC%40@c"
    collector = collector_at(url)
    assert collector.url == "http://c/v1/traces"
    assert collector.headers == {"authorization": "Basic bcOpOuKCrEA="}
    assert collector_at(url, **{HEADERS: "Authorization=Bearer%20x"}).headers == {"authorization": "Bearer x"}


@pytest.mark.parametrize(("text", "timeout_s"), [("", 10.0), ("3000", 3.0), ("100", 0.1), ("99", 99.0), ("0.5", 0.5)])
def test_a_timeout_is_in_milliseconds_and_one_below_100_in_seconds(text: str, timeout_s: float) -> None:
    assert collector_at("http://c", OTEL_EXPORTER_OTLP_TIMEOUT=text).timeout_s == timeout_s


@pytest.mark.parametrize("name", ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"])
def test_a_missing_file_for_tls_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=f"^OTEL_EXPORTER_OTLP_{name} must name a file that can be read"):
        collector_at("https://c", **{f"OTEL_EXPORTER_OTLP_{name}": str(tmp_path / "none.pem")})


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "x", "²"])
def test_a_size_is_a_whole_number_above_0(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^OTEL_BSP_MAX_QUEUE_SIZE must be a whole number above 0"):
        positive_int({"OTEL_BSP_MAX_QUEUE_SIZE": text}, "OTEL_BSP_MAX_QUEUE_SIZE", 5)


@pytest.mark.parametrize(("environ", "size"), [({}, 5), ({"SIZE": " "}, 5), ({"SIZE": "7"}, 7)])
def test_a_size_that_is_unset_or_empty_has_its_default(environ: dict[str, str], size: int) -> None:
    assert positive_int(environ, "SIZE", 5) == size
