"""Spans on their way to the collector: the SDK's batches, on the SDK's thread, counted.

A collector that is down or hangs costs spans, never work: the queue is bounded, adding never waits, and closing waits
for a stated time at most.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from loguru import logger
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from reactor.telemetry.collector import Collector, positive_int
from reactor.telemetry.exporter import Exporter


class ExportQueue(Exporter):
    """Exports spans in batches. Add spans in one thread; the SDK calls `export` in another."""

    def __init__(self, collector: Collector, environ: Mapping[str, str]) -> None:
        """Raises ConfigInvalid when an OTEL_BSP_* variable of `environ` is not a whole number above 0."""
        super().__init__(collector)
        self.sent = 0
        """How many spans the collector accepted."""
        self._added = self._dropped = self._failed = 0
        self._size = positive_int(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 16_384)
        self._processor = BatchSpanProcessor(
            self,
            max_queue_size=self._size,
            schedule_delay_millis=positive_int(environ, "OTEL_BSP_SCHEDULE_DELAY", 1_000),
            max_export_batch_size=min(self._size, positive_int(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)),
        )

    @property
    def lost(self) -> int:
        """Return how many spans were dropped because the queue was full, or were not accepted."""
        return self._dropped + self._failed

    def add(self, span: ReadableSpan) -> None:
        """Queue a span, or count it as lost if the queue is full. Never waits."""
        # bounded here, because the SDK's queue drops spans without counting them
        if self._added - self.sent - self._failed >= self._size:
            self._dropped += 1
        else:
            self._added += 1
            self._processor.on_end(span)

    def export(self, *args: Any, **options: Any) -> Any:
        result, [spans] = super().export(*args, **options), args
        if result is SpanExportResult.SUCCESS:
            self.sent += len(spans)
        else:
            self._failed += len(spans)
        return result

    def observe(self, _: CallbackOptions) -> Iterable[Observation]:
        """Return how many spans were sent and lost, for a metric."""
        return [Observation(self.sent, {"outcome": "sent"}), Observation(self.lost, {"outcome": "lost"})]

    def close(self, within_s: float) -> None:
        """Export what is queued, for `within_s` at most; what is left then is lost. Blocks."""
        # the SDK waits 30 s for an export that hangs, so a daemon thread waits instead
        closing = threading.Thread(target=self._processor.shutdown, name="reactor-spans-shutdown", daemon=True)
        closing.start()
        closing.join(within_s)
        if closing.is_alive():
            self.shutdown()  # ends the SDK's repetitions, so that its threads end soon
        lost = self._dropped + self._added - self.sent
        if lost:
            logger.warning("spans lost: {}; {} did not accept them", lost, self.source)
