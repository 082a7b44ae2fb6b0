"""Reads OpenTelemetry's variables: the collectors of spans and metrics, and the protocol, headers and timeout.

Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter". For each setting, the variable of the signal
(OTEL_EXPORTER_OTLP_TRACES_…) takes precedence over the general variable. The SDK reads the same variables. It logs a
bad value and continues with a default; this module raises ConfigInvalid with the variable and the fix.
"""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Literal, TypeVar
from urllib.parse import unquote

from attrs import field, frozen
from urllib3.util import Url, parse_url

from reactor.core.errors import ConfigInvalid

_MIN_TIMEOUT_MS = 100.0
"""A lower timeout is read as seconds: the specification uses milliseconds, but the Python SDK uses seconds."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Source: RFC 9110, 5.1."""

_PROTOCOLS: Mapping[str, Literal["http", "grpc"]] = {"http/protobuf": "http", "grpc": "grpc"}
_USE_GZIP = {"gzip": True, "none": False}

Signal = Literal["traces", "metrics"]
T = TypeVar("T")


@frozen(kw_only=True)
class Collector:
    """The collector of one signal. `url` and `headers` may contain secrets: show only `name`."""

    signal: Signal
    name: str
    """Scheme, host and port."""

    variable: str
    """The variable that names the URL."""

    protocol: Literal["http", "grpc"]

    url: str = field(repr=False)
    """The URL without user and password."""

    headers: Mapping[str, str] = field(repr=False)
    """The headers, with lower-case names. `authorization` has the user and password of the URL, if any."""

    timeout_s: float
    """Time limit of one export, including the repetitions by the SDK."""

    use_gzip: bool


def collector_of(environ: Mapping[str, str], signal: Signal) -> Collector | None:
    """Return the collector of the signal; None if no endpoint is set or the variables switch the export off.

    Raises ConfigInvalid with the variable and the fix, also if gRPC is set and its package is missing.
    """

    def variable_of(name: str) -> str:
        specific = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"
        return specific if environ.get(specific, "").strip() else f"OTEL_EXPORTER_OTLP_{name}"

    def read(name: str, default: str, parse: Callable[[str], T], words: str) -> T:
        return _read(environ, variable_of(name), default, parse, words)

    switch, variable = f"OTEL_{signal.upper()}_EXPORTER", variable_of("ENDPOINT")
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or environ.get(switch, "").strip().lower() == "none" or not environ.get(variable, "").strip():
        return None
    words = "be http/protobuf (port 4318 of most collectors) or grpc (port 4317), not {}; or set "
    protocol = read("PROTOCOL", "http/protobuf", _PROTOCOLS.__getitem__, f"{words}{switch}=none")
    if protocol == "grpc" and find_spec("opentelemetry.exporter.otlp.proto.grpc") is None:
        raise ConfigInvalid(
            f"{variable_of('PROTOCOL')} is grpc, which needs a package that isn't installed: "
            "pip install opentelemetry-exporter-otlp-proto-grpc, or set http/protobuf (port 4318 of most collectors)"
        )
    url = read("ENDPOINT", "", _url, "be an http:// or https:// URL, like http://127.0.0.1:4318")
    if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" and protocol == "http":
        url = url._replace(path=f"{(url.path or '').rstrip('/')}/v1/{signal}")
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        read(name, os.devnull, _check_readable, "name a file that can be read")
    user = {} if url.auth is None else {"authorization": _basic(url.auth)}
    return Collector(
        signal=signal,
        name=Url(scheme=url.scheme, host=url.host, port=url.port).url,
        variable=variable,
        protocol=protocol,
        url=url._replace(auth=None).url,
        headers=user | read("HEADERS", "", _headers, "be name=value pairs with commas between, percent-encoded"),
        timeout_s=read("TIMEOUT", "10000", _timeout_s, "be milliseconds above 0, like 3000, not {}"),
        use_gzip=read("COMPRESSION", "none", _USE_GZIP.__getitem__, "be gzip or none, not {}"),
    )


def positive_int(environ: Mapping[str, str], variable: str, default: int) -> int:
    """Return the variable's value, or `default` if it is unset or empty. Raises ConfigInvalid."""
    return _read(environ, variable, str(default), _positive_int, "be a whole number above 0, not {}")


def _read(environ: Mapping[str, str], variable: str, default: str, parse: Callable[[str], T], words: str) -> T:
    """Return the parsed value of the variable, or of `default` if the variable is unset or empty.

    `parse` raises ValueError or KeyError for a bad value. Then this raises ConfigInvalid: `words` complete "must …",
    and {} in `words` becomes the bad value.
    """
    text = environ.get(variable, "").strip() or default
    try:
        return parse(text)
    except (ValueError, KeyError):
        raise ConfigInvalid(f"{variable} must {words.format(repr(text))}") from None


def _positive_int(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError
    return int(text)


def _url(text: str) -> Url:
    url = parse_url(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError
    return url


def _basic(user: str) -> str:
    """Return the header `authorization`: "Basic" and the URL's `name:password`, percent-decoded and then in base64."""
    credentials = unquote(user if ":" in user else f"{user}:")
    return f"Basic {b64encode(credentials.encode()).decode()}"


def _headers(text: str) -> dict[str, str]:
    headers = {}
    for pair in filter(str.strip, text.split(",")):
        name, sign, value = (unquote(part).strip() for part in pair.partition("="))
        if not sign or not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ValueError
        headers[name.lower()] = value
    return headers


def _timeout_s(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value / 1000 if value >= _MIN_TIMEOUT_MS else value


def _check_readable(path: str) -> None:
    if not os.access(path, os.R_OK):
        raise ValueError
