"""Read from OpenTelemetry's variables where spans or metrics are exported, and how.

Source: OpenTelemetry specification, "OpenTelemetry Protocol Exporter". For each setting, the variable of the signal
(OTEL_EXPORTER_OTLP_TRACES_…) takes precedence over the general one. The SDK reads the same variables, but it logs a
bad value and continues with a default; here a bad value is a ConfigInvalid that names the variable and the fix.
"""

import os
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote

from attrs import field, frozen
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from reactor.core.errors import ConfigInvalid

_DEFAULT_TIMEOUT_MS = "10000"

_MIN_TIMEOUT_MS = 100.0
"""The specification's timeouts are milliseconds, the Python SDK's are seconds: a lower value is read as seconds."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Source: RFC 9110, 5.1."""

Signal = Literal["traces", "metrics"]
Protocol = Literal["http/protobuf", "grpc"]


@frozen(kw_only=True)
class Collector:
    """The collector of one signal. `url` and `headers` may hold secrets: show only `name`."""

    name: str
    """Scheme, host and port."""

    variable: str
    """The variable that names the URL."""

    protocol: Protocol
    protocol_variable: str
    """The variable that names the protocol."""

    url: str = field(repr=False)
    """Without user and password."""

    headers: Mapping[str, str] = field(repr=False)
    """With lower-case names. A user and password of the URL are in `authorization`."""

    timeout_s: float
    """Limit of one export, including the SDK's repetitions."""

    use_gzip: bool


@frozen(kw_only=True)
class ExportFailed(Exception):
    """A collector did not accept an export."""

    reason: str
    """In words that hold no part of a header or of the URL."""

    status: int | None = None
    """The HTTP status; None if there was no HTTP response."""


def collector_of(environ: Mapping[str, str], signal: Signal) -> Collector | None:
    """Return the signal's collector; None if no endpoint is set, or the variables switch the export off.

    Raises ConfigInvalid, which names the variable and the fix.
    """

    def setting(name: str) -> tuple[str, str]:
        """Return the variable that takes precedence, and its value. An empty variable counts as unset."""
        general, specific = f"OTEL_EXPORTER_OTLP_{name}", f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"
        variable = specific if environ.get(specific, "").strip() else general
        return variable, environ.get(variable, "").strip()

    is_disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none":
        return None
    variable, text = setting("ENDPOINT")
    if not text:
        return None
    protocol_variable, protocol = _protocol(*setting("PROTOCOL"), signal)
    if variable == "OTEL_EXPORTER_OTLP_ENDPOINT" and protocol == "http/protobuf":
        text = f"{text.rstrip('/')}/v1/{signal}"
    url = _http_url(variable, text)
    for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
        _check_readable(*setting(name))
    headers = {} if url.auth is None else {"authorization": _basic(url.auth)}
    return Collector(
        name=Url(scheme=url.scheme, host=url.host, port=url.port).url,
        variable=variable,
        protocol=protocol,
        protocol_variable=protocol_variable,
        url=url._replace(auth=None).url,
        headers=headers | _headers(*setting("HEADERS")),
        timeout_s=_timeout_s(*setting("TIMEOUT")),
        use_gzip=_use_gzip(*setting("COMPRESSION")),
    )


def positive_int(environ: Mapping[str, str], variable: str, default: int) -> int:
    """Return the variable's value, or `default` if it is unset or empty. Raises ConfigInvalid."""
    text = environ.get(variable, "").strip()
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigInvalid(f"{variable} must be a whole number above 0, not {text!r}")
    return int(text) if text else default


def _protocol(variable: str, text: str, signal: Signal) -> tuple[str, Protocol]:
    match text:
        case "" | "http/protobuf":
            return variable, "http/protobuf"
        case "grpc":
            return variable, "grpc"
        case _:
            raise ConfigInvalid(
                f"{variable} must be http/protobuf (port 4318 of most collectors) or grpc (port 4317), not {text!r}; "
                f"or set OTEL_{signal.upper()}_EXPORTER=none"
            )


def _http_url(variable: str, text: str) -> Url:
    try:
        url = parse_url(text)
    except LocationParseError:
        url = Url()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigInvalid(f"{variable} must be an http:// or https:// URL, like http://127.0.0.1:4318")
    return url


def _basic(user: str) -> str:
    """Return the header for a URL's percent-encoded `name:password`, in UTF-8."""
    name, _, password = user.partition(":")
    return f"Basic {b64encode(f'{unquote(name)}:{unquote(password)}'.encode()).decode()}"


def _headers(variable: str, text: str) -> dict[str, str]:
    """Parse `name=value,name=value`, percent-encoded."""
    headers = {}
    for pair in filter(str.strip, text.split(",")):
        name, sign, value = (unquote(part).strip() for part in pair.partition("="))
        if not sign or not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ConfigInvalid(f"{variable} must be name=value pairs with commas between, percent-encoded")
        headers[name.lower()] = value
    return headers


def _timeout_s(variable: str, text: str) -> float:
    try:
        value = float(text or _DEFAULT_TIMEOUT_MS)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigInvalid(f"{variable} must be milliseconds above 0, like 3000, not {text!r}")
    return value / 1000 if value >= _MIN_TIMEOUT_MS else value


def _use_gzip(variable: str, text: str) -> bool:
    if text not in ("", "none", "gzip"):
        raise ConfigInvalid(f"{variable} must be gzip or none, not {text!r}")
    return text == "gzip"


def _check_readable(variable: str, path: str) -> None:
    if path and not os.access(path, os.R_OK):
        raise ConfigInvalid(f"{variable} must name a file that can be read")
