"""Queues spans, exports them in batches, and counts the spans that were sent or lost.

A collector that is down or hangs never delays work; spans are lost instead. The queue is bounded, `add` never waits,
and `close` waits for a limited time.
"""

import threading
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from loguru import logger
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from reactor.telemetry.collector import Collector, positive_int
from reactor.telemetry.exporter import Exporter


class ExportQueue(Exporter):
    """Exports spans in batches. Call `add` in one thread only; the SDK calls `export` in another thread."""

    def __init__(self, collector: Collector, environ: Mapping[str, str]) -> None:
        """Raises ConfigInvalid when an OTEL_BSP_* variable of `environ` is not a whole number above 0."""
        super().__init__(collector)
        self.sent = 0
        """Number of spans that the collector has accepted."""
        self._added = self._dropped = self._failed = 0
        self.lost_at = monotonic()
        """When the last span was lost, in seconds of time.monotonic(); the start, if none was lost."""
        self._size = positive_int(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 16_384)
        self._processor = BatchSpanProcessor(
            self,
            max_queue_size=self._size,
            schedule_delay_millis=positive_int(environ, "OTEL_BSP_SCHEDULE_DELAY", 1_000),
            max_export_batch_size=min(self._size, positive_int(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        )

    @property
    def lost(self) -> int:
        """Number of spans that were dropped because the queue was full, or that the collector did not accept."""
        return self._dropped + self._failed

    def add(self, span: ReadableSpan) -> None:
        """Queue a span. If the queue is full, drop and count the span. Never waits."""
        # the limit is checked here, because the SDK's queue drops spans without counting them
        if self._added - self.sent - self._failed >= self._size:
            self._dropped += 1
            self.lost_at = monotonic()
        else:
            self._added += 1
            self._processor.on_end(span)

    def export(self, *args: Any, **options: Any) -> Any:
        result, [spans] = super().export(*args, **options), args
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self._failed += len(spans)
            self.lost_at = monotonic()
        return result

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return the numbers of sent and lost spans, for a metric."""
        return [Observation(self.sent, {"outcome": "sent"}), Observation(self.lost, {"outcome": "lost"})]

    def close(self, within_s: float) -> None:
        """Export the queued spans. Blocks for `within_s` at most; spans not exported by then are lost."""
        # in a daemon thread, because the SDK waits 30 s for an export that hangs
        closing = threading.Thread(target=self._processor.shutdown, name="reactor-spans-shutdown", daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            self.shutdown()  # after this, the exporter doesn't retry a failed request, so the SDK's threads end soon
        lost = self._dropped + self._added - self.sent
        if lost:
            logger.warning("spans lost: {}; {} did not accept them", lost, self.source)
