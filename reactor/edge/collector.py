"""An OpenTelemetry collector, asked over OTLP/HTTP whether it takes traces, by the standard OTEL_* variables.

What is sent is an ExportTraceServiceRequest without a span in it, which in protobuf is no byte at all: so neither
protobuf nor the exporter is needed to ask.
"""

import ssl
from base64 import b64encode
from collections.abc import Mapping
from http.client import HTTPException, InvalidURL, RemoteDisconnected
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from attrs import field, frozen

ANSWER_WITHIN_S: Final = 3.0

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"


@frozen(kw_only=True)
class Collector:
    """Where traces go. Its URL and headers may hold secrets: only `address` is fit to be shown."""

    setting: str
    """The variable that names it."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    protocol: str

    @property
    def address(self) -> str:
        """Return host and port, as far as the URL is one."""
        try:
            host = urlsplit(self.url).netloc.rpartition("@")[2]
        except ValueError:
            host = ""
        return host or "a URL without a host"


@frozen(kw_only=True)
class Answer:
    """What came of asking."""

    status: int | None = None
    """The HTTP status; None when there was none."""

    failure: str = ""
    """Why there was no status, in words without a secret."""


def collector(environ: Mapping[str, str]) -> Collector | None:
    """Return the collector that the variables name; None when no traces are exported."""

    def read(name: str) -> str | None:
        """Return what is set for traces, else for all signals. An empty value is an unset one."""
        return environ.get(f"{_PREFIX}TRACES_{name}", "").strip() or environ.get(_PREFIX + name, "").strip() or None

    is_off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_off or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none" or read("ENDPOINT") is None:
        return None
    own = environ.get(f"{_PREFIX}TRACES_ENDPOINT", "").strip()
    shared = environ.get(f"{_PREFIX}ENDPOINT", "").strip()
    return Collector(
        setting=f"{_PREFIX}TRACES_ENDPOINT" if own else f"{_PREFIX}ENDPOINT",
        url=own or shared.rstrip("/") + "/v1/traces",
        headers=_headers(read("HEADERS") or ""),
        certificate=read("CERTIFICATE"),
        client_key=read("CLIENT_KEY"),
        client_certificate=read("CLIENT_CERTIFICATE"),
        protocol=read("PROTOCOL") or "http/protobuf",
    )


def export_nothing(collector: Collector) -> Answer:
    """Export no span to the collector. Raises nothing: what went wrong is the answer.

    No message of an exception is passed on where it might quote the URL or a header.
    """
    try:
        with _opener(collector).open(_request(collector), timeout=ANSWER_WITHIN_S) as answer:
            return Answer(status=answer.status)
    except HTTPError as error:
        error.close()
        return Answer(status=error.code)
    except URLError as error:
        return Answer(failure=_reason(error.reason))
    except (OSError, HTTPException, ValueError) as error:
        return Answer(failure=_reason(error))


def _request(collector: Collector) -> Request:
    """Raises ValueError for what no request can be made of."""
    url = urlsplit(collector.url)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("no URL of the web")
    headers = {"Content-Type": "application/x-protobuf", **collector.headers}
    if url.username is not None:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        headers.setdefault("Authorization", "Basic " + b64encode(user.encode()).decode())
    bare = url._replace(netloc=collector.address).geturl()
    return Request(bare, data=b"", headers=headers, method="POST")  # noqa: S310 - its scheme is checked above


def _opener(collector: Collector) -> OpenerDirector:
    """Make what sends the request. It follows no redirect: that would make a GET of an export."""
    context = ssl.create_default_context(cafile=collector.certificate)
    if collector.client_certificate is not None:
        context.load_cert_chain(collector.client_certificate, collector.client_key)
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(context=context),
        HTTPDefaultErrorHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _headers(text: str) -> dict[str, str]:
    """Read `name=value,name=value`, percent-encoded."""
    pairs = [pair.partition("=") for pair in text.split(",") if "=" in pair]
    return {unquote(name).strip(): unquote(value).strip() for name, _, value in pairs}


def _reason(reason: object) -> str:
    words = type(reason).__name__
    match reason:
        case TimeoutError():
            words = f"no answer within {ANSWER_WITHIN_S:g} s"
        case ssl.SSLError():
            words = f"TLS fails ({reason.reason or words})"
        case RemoteDisconnected():
            words = "it closed the connection without an answer"
        case InvalidURL() | ValueError():
            words = "its URL or headers can't be sent: they are http:// or https://, and name=value with commas between"
        case HTTPException():
            words = f"what answers there doesn't speak HTTP ({words})"
        case OSError():
            words = reason.strerror or words
    return words
