"""OTLP over HTTP: where to send, by OpenTelemetry's own variables, and one request.

The variables and their meaning are the specification's ("OpenTelemetry Protocol Exporter"); for each, the one of the
signal (OTEL_EXPORTER_OTLP_TRACES_…) comes before the general one. The SDK's own exporter isn't used: it blocks the end
for as long as a collector hangs, and logs each failed batch.
"""

import gzip
import re
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Literal
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from attrs import frozen

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

Signal = Literal["traces", "metrics"]


@frozen(kw_only=True)
class NotTaken(Exception):
    """A request that failed."""

    reason: str
    """In words, without what a header or the URL may hold."""

    is_lasting: bool = False
    """True when sending the same again can't help."""

    retry_after_s: float = 0.0


class Collector:
    """One signal's way to the collector."""

    def __init__(
        self, url: str, *, headers: Mapping[str, str], timeout_s: float, use_gzip: bool, tls: Mapping[str, Any]
    ) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        """What may be shown of the URL."""

        self._url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers = {"content-type": "application/x-protobuf", "user-agent": "reactor"}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers |= urllib3.make_headers(basic_auth=user)
        self._headers |= headers
        if use_gzip:
            self._headers["content-encoding"] = "gzip"
        self._use_gzip = use_gzip
        self._timeout_s = timeout_s
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        self._pool: urllib3.PoolManager = (
            urllib3.PoolManager(num_pools=1, maxsize=1, **tls)
            if proxy is None
            else urllib3.ProxyManager(proxy, num_pools=1, maxsize=1, **tls)
        )

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
        except urllib3.exceptions.TimeoutError:
            raise NotTaken(reason=f"no answer within {timeout_s:g} s") from None
        except (urllib3.exceptions.HTTPError, HTTPException, OSError, ValueError) as error:
            # only its kind: the words may repeat the URL or a header
            raise NotTaken(reason=type(error).__name__) from None
        if answer.status not in _OK:
            raise NotTaken(
                reason=f"it answered {answer.status}",
                is_lasting=answer.status not in _WORTH_REPEATING,
                retry_after_s=_retry_after_s(answer.headers.get("retry-after", "")),
            )

    def close(self) -> None:
        self._pool.clear()


def _retry_after_s(text: str) -> float:
    return min(float(text), _LONGEST_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def collector_of(environ: Mapping[str, str], signal: Signal) -> Collector | None:
    """Return the way to the collector for a signal; None where none is named, or the variables say not to export.

    Raises ConfigInvalid naming the variable and the fix.
    """

    def chosen(name: str) -> tuple[str, str]:
        """Return the variable that counts, and what it says."""
        general, own = f"OTEL_EXPORTER_OTLP_{name}", f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}"
        variable = own if environ.get(own) else general
        return variable, environ.get(variable, "").strip()

    if is_disabled(environ) or environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip().lower() == "none":
        return None
    variable, url = chosen("ENDPOINT")
    if not url:
        return None
    if variable == "OTEL_EXPORTER_OTLP_ENDPOINT":
        url = f"{url.rstrip('/')}/v1/{signal}"
    try:
        is_web = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
        _ = urlsplit(url).port
    except ValueError:
        is_web = False
    if not is_web:
        raise ConfigInvalid(f"{variable} must be an http:// or https:// URL, like http://127.0.0.1:4318")
    variable, protocol = chosen("PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise ConfigInvalid(
            f"{variable} must be http/protobuf (port 4318 of most collectors), not {protocol!r}; "
            f"or set OTEL_{signal.upper()}_EXPORTER=none"
        )
    variable, compression = chosen("COMPRESSION")
    if compression not in ("", "none", "gzip"):
        raise ConfigInvalid(f"{variable} must be gzip or none, not {compression!r}")
    tls = {
        ours: value
        for name, ours in (("CERTIFICATE", "ca_certs"), ("CLIENT_CERTIFICATE", "cert_file"), ("CLIENT_KEY", "key_file"))
        if (value := chosen(name)[1])
    }
    return Collector(
        url,
        headers=_headers(*chosen("HEADERS")),
        timeout_s=_timeout_s(*chosen("TIMEOUT")),
        use_gzip=compression == "gzip",
        tls=tls,
    )


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry is switched off as a whole."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


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
