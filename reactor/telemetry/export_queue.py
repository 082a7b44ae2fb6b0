"""Spans on their way to the collector: the SDK's batches, on the SDK's thread, counted.

A collector that is down or hangs costs spans, never work: the queue is bounded, adding never waits, and closing waits
for a stated time at most.
"""

import threading
from collections.abc import Mapping, Sequence

from loguru import logger
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from reactor.telemetry.collector import Collector, positive_int
from reactor.telemetry.exporter import EXPORT_FAILED, ExportLog, HttpSession, muted, span_exporter


class ExportQueue:
    """Exports spans in batches. Add spans in one thread."""

    def __init__(self, collector: Collector, environ: Mapping[str, str]) -> None:
        """Raises ConfigInvalid when an OTEL_BSP_* variable of `environ` is not a whole number above 0."""
        self._collector = collector
        self._size = positive_int(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 16_384)
        batch_size = positive_int(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
        delay_ms = positive_int(environ, "OTEL_BSP_SCHEDULE_DELAY", 1_000)
        self._exporter = _CountingExporter(collector)
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=self._size,
            schedule_delay_millis=delay_ms,
            max_export_batch_size=min(self._size, batch_size),
        )
        self._added = 0
        self._dropped = 0

    @property
    def sent(self) -> int:
        """Return how many spans the collector accepted."""
        return self._exporter.sent

    @property
    def lost(self) -> int:
        """Return how many spans were dropped because the queue was full, or were not accepted."""
        return self._dropped + self._exporter.failed

    def add(self, span: ReadableSpan) -> None:
        """Queue a span, or count it as lost if the queue is full. Never waits."""
        # bounded here, because the SDK's queue drops spans without counting them
        if self._added - self._exporter.sent - self._exporter.failed >= self._size:
            self._dropped += 1
            return
        self._added += 1
        self._processor.on_end(span)

    def close(self, within_s: float) -> None:
        """Export what is queued, for `within_s` at most; what is left then is lost. Blocks."""
        # the SDK waits 30 s for an export that hangs, so a daemon thread waits instead
        closing = threading.Thread(target=self._processor.shutdown, name="reactor-spans-shutdown", daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            self._exporter.shutdown()  # ends the SDK's repetitions, so that its threads end soon
        lost = self._dropped + self._added - self._exporter.sent
        if lost:
            logger.warning("spans lost: {}; the collector at {} did not accept them", lost, self._collector.name)


class _CountingExporter(SpanExporter):
    """The SDK's exporter; counts and logs what it returns. Called in the processor's thread."""

    def __init__(self, collector: Collector) -> None:
        self._log = ExportLog(collector.name, "spans")
        with muted():
            self._exporter = span_exporter(collector, HttpSession(self._log.failed))
        self.sent = 0
        self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with muted():
            result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
            self._log.succeeded()
        else:
            self.failed += len(spans)
            self._log.failed(EXPORT_FAILED)
        return result

    def shutdown(self) -> None:
        with muted():
            self._exporter.shutdown()
