"""OTLP over HTTP: where to send, by OpenTelemetry's own variables, and one request.

The variables and their meaning are the specification's ("OpenTelemetry Protocol Exporter"); for each, the one of the
signal (OTEL_EXPORTER_OTLP_TRACES_…) comes before the general one. The SDK's own exporter isn't used: it blocks the end
for as long as a collector hangs, and logs each failed batch.
"""

import gzip
import os
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException, RemoteDisconnected
from typing import Any, Literal
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import urllib3
from attrs import frozen
from urllib3.util import Url, parse_url

from reactor.core.errors import ConfigInvalid

TIMEOUT_S = 3.0
"""How long one request may take where OTEL_EXPORTER_OTLP_TIMEOUT says nothing."""

_SMALLEST_MS = 100.0
"""The specification's timeouts are milliseconds, Python's SDK reads seconds: below this, seconds were meant."""

_OK = range(200, 300)
_WORTH_REPEATING = frozenset({429, 502, 503, 504})
"""Source: OTLP specification, "OTLP/HTTP response: retryable response codes"."""

_LONGEST_RETRY_AFTER_S = 30.0

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Source: RFC 9110, 5.1."""

_TLS_FILES = {"CERTIFICATE": "ca_certs", "CLIENT_CERTIFICATE": "cert_file", "CLIENT_KEY": "key_file"}
"""The variables' names, and urllib3's."""

Signal = Literal["traces", "metrics"]


@frozen(kw_only=True)
class NotTaken(Exception):
    """A request that failed."""

    reason: str
    """In words, without what a header or the URL may hold."""

    status: int | None = None
    """The HTTP status; None when there was none."""

    is_lasting: bool = False
    """True when sending the same again can't help."""

    retry_after_s: float = 0.0


class Collector:
    """One signal's way to the collector. Its URL and headers may hold secrets: only `name` is fit to be shown."""

    def __init__(
        self,
        url: Url,
        *,
        variable: str,
        headers: Mapping[str, str],
        timeout_s: float,
        use_gzip: bool,
        tls: Mapping[str, Any],
    ) -> None:
        self.name = Url(scheme=url.scheme, host=url.host, port=url.port).url
        """What may be shown of the URL."""
        self.variable = variable
        """The variable that names the URL."""

        self._url = url._replace(auth=None).url
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "reactor"}
        if url.auth is not None:
            self._headers["authorization"] = _basic(url.auth)
        self._headers |= headers
        if use_gzip:
            self._headers["content-encoding"] = "gzip"
        self._use_gzip = use_gzip
        self._timeout_s = timeout_s
        self._pool = _pool(url, tls)

    def send(self, body: bytes, *, within_s: float = TIMEOUT_S) -> None:
        """Send one request's body. Blocks; raises NotTaken."""
        if self._use_gzip:
            body = gzip.compress(body, compresslevel=1)
        timeout_s = min(within_s, self._timeout_s)
        try:
            answer = self._pool.request(
                "POST",
                self._url,
                body=body,
                headers=self._headers,
                timeout=urllib3.Timeout(total=timeout_s),
                retries=False,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError) as error:
            raise NotTaken(reason=_why(error, timeout_s)) from None
        if answer.status not in _OK:
            raise NotTaken(
                reason=f"it answered {answer.status}",
                status=answer.status,
                is_lasting=answer.status not in _WORTH_REPEATING,
                retry_after_s=_retry_after_s(answer.headers.get("retry-after", "")),
            )

    def close(self) -> None:
        self._pool.clear()


def _pool(url: Url, tls: Mapping[str, Any]) -> urllib3.PoolManager:
    """Make what keeps the connection, through the proxy that the system's variables name, if any."""
    scheme = url.scheme or ""
    proxy = None if proxy_bypass((url.host or "").strip("[]")) else getproxies().get(scheme)
    if proxy is None:
        return urllib3.PoolManager(num_pools=1, maxsize=1, **tls)
    through = _web_url(f"{scheme}_proxy", proxy, like="http://127.0.0.1:3128")
    headers = {} if through.auth is None else {"proxy-authorization": _basic(through.auth)}
    return urllib3.ProxyManager(through._replace(auth=None).url, num_pools=1, maxsize=1, proxy_headers=headers, **tls)


def _basic(user: str) -> str:
    """Return the header for `name:password`, as a URL writes it."""
    name, _, password = user.partition(":")
    return f"Basic {b64encode(f'{unquote(name)}:{unquote(password)}'.encode()).decode()}"


def _why(error: Exception, timeout_s: float) -> str:
    """Say why there was no answer, in the system's words or ours: an exception's may repeat the URL or a header."""
    root: BaseException = error
    while (below := root.__cause__ or root.__context__) is not None:
        root = below
    words = type(root).__name__
    match root:
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            words = f"no answer within {timeout_s:g} s"
        case ssl.SSLError():
            words = f"TLS fails ({root.reason or words})"
        case RemoteDisconnected():
            words = "it closed the connection without an answer"
        case HTTPException():
            words = f"what answers there doesn't speak HTTP ({words})"
        case OSError():
            words = root.strerror or words
        case ValueError():
            words = f"its URL or headers can't be sent ({words})"
    return f"the proxy: {words}" if isinstance(error, urllib3.exceptions.ProxyError) else words


def _retry_after_s(text: str) -> float:
    return min(float(text), _LONGEST_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def collector_of(environ: Mapping[str, str], signal: Signal) -> Collector | None:
    """Return the way to the collector for a signal; None where none is named, or the variables say not to export.

    Raises ConfigInvalid naming the variable and the fix.
    """

    def chosen(name: str) -> tuple[str, str]:
        """Return the variable that counts, and what it says. An empty one is an unset one."""
        general, own = f"OTEL_EXPORTER_OTLP_{name}", f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"
        variable = own if environ.get(own, "").strip() else general
        return variable, environ.get(variable, "").strip()

    if is_disabled(environ) or environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none":
        return None
    endpoint, url = chosen("ENDPOINT")
    if not url:
        return None
    if endpoint == "OTEL_EXPORTER_OTLP_ENDPOINT":
        url = f"{url.rstrip('/')}/v1/{signal}"
    variable, protocol = chosen("PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise ConfigInvalid(
            f"{variable} must be http/protobuf (port 4318 of most collectors), not {protocol!r}; "
            f"or set OTEL_{signal.upper()}_EXPORTER=none"
        )
    variable, compression = chosen("COMPRESSION")
    if compression not in ("", "none", "gzip"):
        raise ConfigInvalid(f"{variable} must be gzip or none, not {compression!r}")
    return Collector(
        _web_url(endpoint, url, like="http://127.0.0.1:4318"),
        variable=endpoint,
        headers=_headers(*chosen("HEADERS")),
        timeout_s=_timeout_s(*chosen("TIMEOUT")),
        use_gzip=compression == "gzip",
        tls={ours: file for name, ours in _TLS_FILES.items() if (file := _readable(*chosen(name)))},
    )


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry is switched off as a whole."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _web_url(variable: str, text: str, *, like: str) -> Url:
    try:
        url = parse_url(text)
    except urllib3.exceptions.LocationParseError:
        url = Url()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigInvalid(f"{variable} must be an http:// or https:// URL, like {like}")
    return url


def _readable(variable: str, path: str) -> str:
    if path and not os.access(path, os.R_OK):
        raise ConfigInvalid(f"{variable} must name a file that can be read")
    return path


def _headers(variable: str, text: str) -> dict[str, str]:
    """Read `name=value,name=value`, percent-encoded. The SDK's reader isn't used: it logs what it can't read."""
    headers = {}
    for pair in filter(str.strip, text.split(",")):
        name, sign, value = (unquote(part).strip() for part in pair.partition("="))
        if not sign or not _HEADER_NAME.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ConfigInvalid(f"{variable} must be name=value pairs with commas between, percent-encoded")
        headers[name.lower()] = value
    return headers


def _timeout_s(variable: str, text: str) -> float:
    try:
        value = float(text or TIMEOUT_S)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigInvalid(f"{variable} must be milliseconds above 0, like 3000, not {text!r}")
    return value / 1000 if value >= _SMALLEST_MS else value
