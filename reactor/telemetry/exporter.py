"""Build the SDK's OTLP exporters, over HTTP or gRPC, and report their failures without secrets.

The SDK's exporters log every failed export, with URL and exception. Here these records are dropped; `ExportLog` logs
the first failure and then one line in five minutes, in words that hold no part of a URL or header.
"""

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException, RemoteDisconnected
from importlib import import_module
from time import monotonic
from types import ModuleType
from typing import Any

import requests
import urllib3
from attrs import evolve
from loguru import logger
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from reactor.core.errors import ConfigInvalid
from reactor.telemetry.collector import Collector, ExportFailed

_LOG_INTERVAL_S = 300.0
_PROBE_TIMEOUT_S = 3.0

EXPORT_FAILED = ExportFailed(reason="the export failed")
"""Over gRPC, where the SDK gives no reason."""

_GRPC_PACKAGE = "opentelemetry-exporter-otlp-proto-grpc"

_is_muted = ContextVar("is_muted", default=False)
_MUTED_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "urllib3.connection",
    "urllib3.connectionpool",
)


class HttpSession(requests.Session):
    """Sends requests to one collector, and reports each that fails."""

    def __init__(self, on_failure: Callable[[ExportFailed], None]) -> None:
        """`on_failure` is called for each failed request, also if the SDK repeats it."""
        super().__init__()
        self._on_failure = on_failure
        self.auth = lambda request: request  # without it, an entry in ~/.netrc replaces the header `authorization`

    def request(self, *args: Any, **options: Any) -> requests.Response:
        try:
            response = super().request(*args, **options)
        except (OSError, ValueError, HTTPException) as error:  # requests' own errors are OSErrors
            self._on_failure(ExportFailed(reason=_reason(error, options["timeout"])))
            raise
        if response.status_code not in range(200, 300):
            failure = ExportFailed(reason=f"it answered {response.status_code}", status=response.status_code)
            self._on_failure(failure)
            if response.status_code in range(300, 400):
                # the SDK follows no redirect, but counts it as a success
                raise requests.RequestException(failure)
        return response


def span_exporter(collector: Collector, session: HttpSession) -> SpanExporter:
    """Return the SDK's exporter of spans. Raises ConfigInvalid if gRPC is set and its package is missing."""
    if collector.protocol == "grpc":
        exporter: SpanExporter = _grpc_module(collector, "trace").OTLPSpanExporter(**_grpc_options(collector))
        return exporter
    return OTLPSpanExporter(**_http_options(collector, session))


def metric_exporter(collector: Collector, session: HttpSession) -> MetricExporter:
    """Return the SDK's exporter of metrics. Raises ConfigInvalid if gRPC is set and its package is missing."""
    if collector.protocol == "grpc":
        exporter: MetricExporter = _grpc_module(collector, "metric").OTLPMetricExporter(**_grpc_options(collector))
        return exporter
    return OTLPMetricExporter(**_http_options(collector, session))


def probe(collector: Collector) -> None:
    """Export no span, once. Blocks for 3 s at most.

    Raises ExportFailed; ConfigInvalid if gRPC is set and its package is missing.
    """
    failures: list[ExportFailed] = []

    def stop(failure: ExportFailed) -> None:
        failures.append(failure)
        exporter.shutdown()  # the SDK would repeat the request

    timeout_s = min(_PROBE_TIMEOUT_S, collector.timeout_s)
    with muted():
        exporter = span_exporter(evolve(collector, timeout_s=timeout_s), HttpSession(stop))
        result = exporter.export([])
        exporter.shutdown()
    if result is not SpanExportResult.SUCCESS:
        raise failures[0] if failures else EXPORT_FAILED


def _http_options(collector: Collector, session: HttpSession) -> dict[str, Any]:
    # the SDK reads the variables of TLS itself
    return {
        "endpoint": collector.url,
        "headers": collector.headers,
        "timeout": collector.timeout_s,
        "compression": Compression.Gzip if collector.use_gzip else Compression.NoCompression,
        "session": session,
    }


def _grpc_options(collector: Collector) -> dict[str, Any]:
    compression = import_module("grpc").Compression
    return {
        "endpoint": collector.url,
        "headers": dict(collector.headers),
        "timeout": collector.timeout_s,
        "compression": compression.Gzip if collector.use_gzip else compression.NoCompression,
    }


def _grpc_module(collector: Collector, signal: str) -> ModuleType:
    """Import the SDK's gRPC exporters, whose package is an extra."""
    try:
        return import_module(f"opentelemetry.exporter.otlp.proto.grpc.{signal}_exporter")
    except ImportError:
        raise ConfigInvalid(
            f"{collector.protocol_variable} is grpc, which needs a package that isn't installed: "
            f"pip install {_GRPC_PACKAGE}, or set http/protobuf (port 4318 of most collectors)"
        ) from None


def _reason(error: BaseException, timeout_s: float) -> str:
    """Return why there was no response, in the system's words or ours: an exception's may repeat a URL or header."""
    root = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    reason = type(root).__name__
    match root:
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            reason = f"no answer within {timeout_s:.3g} s"
        case ssl.SSLError():
            reason = f"TLS fails ({root.reason or reason})"
        case RemoteDisconnected():
            reason = "it closed the connection without an answer"
        case HTTPException():
            reason = f"what answers there doesn't speak HTTP ({reason})"
        case ValueError():  # before OSError: requests' errors about URLs are both
            reason = f"its URL or headers can't be sent ({reason})"
        case OSError():
            reason = root.strerror or reason
    return f"the proxy: {reason}" if isinstance(error, requests.exceptions.ProxyError) else reason


@contextmanager
def muted() -> Iterator[None]:
    """Drop what the SDK's exporters log in this block. Records of other exporters in the same process pass."""
    token = _is_muted.set(True)
    try:
        yield
    finally:
        _is_muted.reset(token)


def _pass_unless_muted(_record: logging.LogRecord) -> bool:
    return not _is_muted.get()


for _name in _MUTED_LOGGERS:
    logging.getLogger(_name).addFilter(_pass_unless_muted)


class ExportLog:
    """Logs that a collector accepts nothing: at once, then every five minutes; and once that it does again."""

    def __init__(self, collector_name: str, what: str) -> None:
        self._collector_name = collector_name
        self._what = what
        self._logged_at: float | None = None

    def failed(self, failure: ExportFailed) -> None:
        now = monotonic()
        if self._logged_at is None or now - self._logged_at > _LOG_INTERVAL_S:
            self._logged_at = now
            logger.warning(
                "the collector at {} doesn't accept {}: {}", self._collector_name, self._what, failure.reason
            )

    def succeeded(self) -> None:
        if self._logged_at is not None:
            self._logged_at = None
            logger.info("the collector at {} accepts {} again", self._collector_name, self._what)
