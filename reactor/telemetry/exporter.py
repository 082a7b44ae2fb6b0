"""Creates the SDK's OTLP exporters, for HTTP or gRPC, and logs their failures without secrets.

The SDK's exporters log every failed export, with URL and exception. This module drops these records. `Exporter`
logs the first failure, and then some at growing intervals, without any part of a header or of the URL's path.
"""

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from http.client import HTTPException, RemoteDisconnected
from importlib import import_module
from typing import Any

import requests
import urllib3
from attrs import evolve, frozen
from loguru import logger
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from reactor.core.causes import causes
from reactor.telemetry.collector import Collector
from reactor.telemetry.repetition import Repetition

_PROBE_TIMEOUT_S = 3.0

_is_muted = ContextVar("is_muted", default=False)
_MUTED_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "urllib3.connection",
    "urllib3.connectionpool",
)


@frozen(kw_only=True)
class ExportFailed(Exception):
    """A collector did not accept an export."""

    reason: str
    """Why, without any part of a header or of the URL."""

    status: int | None = None
    """The HTTP status; None if there was no HTTP response."""


_EXPORT_FAILED = ExportFailed(reason="the export failed")
"""The failure over gRPC, for which the SDK gives no reason."""


class Exporter(SpanExporter, MetricExporter):
    """Exports the signal of a collector with the SDK's exporter; logs failures at growing intervals."""

    def __init__(self, collector: Collector, complete: Callable[[Any], Any] = lambda data: data) -> None:
        """`complete` gets the SDK's data and returns the data to export."""
        super().__init__()
        self._complete = complete
        self.source = f"the collector at {collector.name}"
        self._what = "spans" if collector.signal == "traces" else collector.signal
        self._repetition = Repetition()
        self._failures = 0
        self._exporter = sdk_exporter(collector, self._log_failure)

    def export(self, *args: Any, **options: Any) -> Any:
        [data] = args
        failures_before = self._failures
        with muted():
            result = self._exporter.export(self._complete(data), **options)
        if result.name != "SUCCESS":
            if self._failures == failures_before:
                self._log_failure(_EXPORT_FAILED)
        elif (lasted_s := self._repetition.ended_after_s()) is not None:
            logger.info("{} accepts {} again, after {:.1f} s", self.source, self._what, lasted_s)
        return result

    def force_flush(self, *_args: Any, **_options: Any) -> bool:
        return True  # the SDK's exporters have no buffer

    def shutdown(self, *args: Any, **options: Any) -> None:
        with muted():
            self._exporter.shutdown(*args, **options)

    def _log_failure(self, failure: ExportFailed) -> None:
        self._failures += 1
        if (more := self._repetition.more(failure.reason)) is not None:
            logger.warning("{} doesn't accept {}: {}{}", self.source, self._what, failure.reason, more)


def probe(collector: Collector) -> None:
    """Send one empty export. Blocks for 3 s at most. Raises ExportFailed."""
    failures: list[ExportFailed] = []

    def stop(failure: ExportFailed) -> None:
        failures.append(failure)
        exporter.shutdown()  # the SDK would repeat the request

    exporter = sdk_exporter(evolve(collector, timeout_s=min(_PROBE_TIMEOUT_S, collector.timeout_s)), stop)
    with muted():
        result = exporter.export([])
        exporter.shutdown()
    if result.name != "SUCCESS":
        raise failures[0] if failures else _EXPORT_FAILED


def sdk_exporter(collector: Collector, on_failure: Callable[[ExportFailed], None]) -> Any:
    """Return the SDK's exporter. Over HTTP, it calls `on_failure` for each failed request, including repetitions."""
    package = f"opentelemetry.exporter.otlp.proto.{collector.protocol}"
    kind, module = ("Span", "trace_exporter") if collector.signal == "traces" else ("Metric", "metric_exporter")
    # imported on demand, because gRPC's package is an extra
    exporter = getattr(import_module(f"{package}.{module}"), f"OTLP{kind}Exporter")
    is_grpc = collector.protocol == "grpc"
    compression = import_module("grpc" if is_grpc else package).Compression
    with muted():
        # the SDK reads the variables of TLS itself
        return exporter(
            endpoint=collector.url,
            headers=dict(collector.headers),
            timeout=collector.timeout_s,
            compression=compression.Gzip if collector.use_gzip else compression.NoCompression,
            **({} if is_grpc else {"session": _HttpSession(on_failure)}),
        )


class _HttpSession(requests.Session):
    """Sends requests to one collector, and reports each failed request."""

    def __init__(self, on_failure: Callable[[ExportFailed], None]) -> None:
        super().__init__()
        self._on_failure = on_failure
        self.auth = lambda request: request  # without it, an entry in ~/.netrc replaces the header `authorization`

    def request(self, *args: Any, **options: Any) -> requests.Response:
        try:
            response = super().request(*args, **options)
        except (OSError, ValueError, HTTPException) as error:  # the package requests raises OSErrors
            self._on_failure(ExportFailed(reason=_reason(error, options["timeout"])))
            raise
        status = response.status_code
        if status not in range(200, 300):
            failure = ExportFailed(reason=f"it answered {status}", status=status)
            self._on_failure(failure)
            if status in range(300, 400):
                raise requests.RequestException(failure)  # the SDK regards a redirect as a success
        return response


def _reason(error: BaseException, timeout_s: float) -> str:
    """Return why there was no response, without the exception's message, which may contain a URL or header."""
    *_, root = causes(error, with_suppressed=True)
    reason = type(root).__name__
    match root:
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            reason = f"no answer within {timeout_s:.2g} s"
        case ssl.SSLError():
            reason = f"TLS fails ({root.reason or reason})"
        case RemoteDisconnected():
            reason = "it closed the connection without an answer"
        case HTTPException():
            reason = f"what answers there doesn't speak HTTP ({reason})"
        case ValueError():  # before OSError, because the errors about URLs of the package requests are OSErrors too
            reason = f"its URL or headers can't be sent ({reason})"
        case OSError():
            reason = root.strerror or reason
    return f"the proxy: {reason}" if isinstance(error, requests.exceptions.ProxyError) else reason


@contextmanager
def muted() -> Iterator[None]:
    """Drop the log records of the SDK's exporters in this block, but not those of other exporters in this process."""
    token = _is_muted.set(True)
    try:
        yield
    finally:
        _is_muted.reset(token)


for _name in _MUTED_LOGGERS:
    logging.getLogger(_name).addFilter(lambda _record: not _is_muted.get())
