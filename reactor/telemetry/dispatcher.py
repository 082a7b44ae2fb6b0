"""The one place where events become log lines, metrics and spans. Telemetry listens; it never interrupts.

Which of them there are is OpenTelemetry's own variables' business: OTEL_EXPORTER_OTLP_ENDPOINT (nothing is exported
without it), OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_SDK_DISABLED and theirs.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from anyio import to_thread
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider

from reactor.core import events
from reactor.core.errors import ConfigInvalid
from reactor.core.events import Event
from reactor.telemetry.log_lines import LogLines
from reactor.telemetry.metrics import Metrics
from reactor.telemetry.otlp import collector_of
from reactor.telemetry.outbox import Outbox
from reactor.telemetry.spans import SpanBatches
from reactor.telemetry.traces import Traces

_LATER_S = 0.005
"""A log line, metric or span costs 10 to 100 µs: nothing that an upload should wait for between NOTIFY and attempt."""

_AT_ONCE_S = 0.002
"""How long events are told of before the loop may breathe."""

_CLOSE_S = 2.0
"""What a collector may delay the end by, all signals together. The promise is 3 s."""


class Telemetry:
    """Hears every event of one reactor."""

    def __init__(self, version: str, environ: Mapping[str, str]) -> None:
        """Raises ConfigInvalid when `environ` holds a variable of OpenTelemetry that says nothing sensible."""
        resource = _resource(version)
        self._outbox: Outbox | None = None
        self._spans: SpanBatches | None = None
        hearing: list[Mapping[type[Any], Callable[[Any], None]]] = []
        if (collector := collector_of(environ, "traces")) is not None:
            room = _whole(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 16_384)
            size = min(room, _whole(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512))
            self._outbox = Outbox(collector, room=room)
            self._spans = SpanBatches(self._outbox, resource, version=version, size=size)
            hearing.append(_hearing(Traces(self._spans, TracerProvider(shutdown_on_exit=False).sampler)))
        self._batch_s = _whole(environ, "OTEL_BSP_SCHEDULE_DELAY", 1_000) / 1000
        self._hand_over_at: asyncio.TimerHandle | None = None
        pushed_to = collector_of(environ, "metrics")
        self.pushes = pushed_to is not None
        """True when metrics are sent by themselves, and not only asked for."""
        self.metrics = Metrics(resource, version=version, collector=pushed_to, outbox=self._outbox)
        hearing += [self.metrics.hearing(), LogLines().hearing()]
        self._listeners = {
            kind: [listeners[kind] for listeners in hearing if kind in listeners]
            for kind in {kind for listeners in hearing for kind in listeners}
        }
        self._events: deque[Event] = deque()
        self._is_due = False

    def __call__(self, event: Event) -> None:
        """Take an event in; it is told of a moment later, when the work that it came from is on its way."""
        self._events.append(event)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_LATER_S, self._tell_some)

    def flush(self) -> None:
        """Tell of every event that was taken in."""
        while self._events:
            self._tell(self._events.popleft())
        self._batch()

    def prometheus(self) -> bytes:
        """Return every metric in Prometheus' text format."""
        self.flush()
        return self.metrics.prometheus()

    async def close(self) -> None:
        """Tell and send what is left. Returns within 3 s, whatever a collector does."""
        self.flush()
        if self._hand_over_at is not None:
            self._hand_over_at.cancel()
        if self._spans is not None:
            self._spans.hand_over()
        await to_thread.run_sync(self._close)

    def _close(self) -> None:
        """Close all signals side by side: one that hangs must not take the other's time."""
        until = monotonic() + _CLOSE_S
        # a daemon: a push that hangs outlives this, and holds up nobody
        pushing = threading.Thread(target=self.metrics.close, args=(_CLOSE_S,), name="reactor-metrics", daemon=True)
        pushing.start()
        if self._outbox is not None:
            self._outbox.close(_CLOSE_S)
        pushing.join(max(0.0, until - monotonic()))

    def _tell_some(self) -> None:
        """Tell of events for a moment, and of the others when the loop has seen to its work."""
        self._is_due = False
        until = monotonic() + _AT_ONCE_S
        while self._events:
            self._tell(self._events.popleft())
            if monotonic() > until and self._events:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._tell_some)
                return
        self._batch()

    def _tell(self, event: Event) -> None:
        for listener in self._listeners.get(type(event), ()):
            listener(event)

    def _batch(self) -> None:
        """See to it that spans are sent soon, though there may be few."""
        if self._spans is not None and len(self._spans) and self._hand_over_at is None:
            self._hand_over_at = asyncio.get_running_loop().call_later(self._batch_s, self._hand_over)

    def _hand_over(self) -> None:
        self._hand_over_at = None
        if self._spans is not None:
            self._spans.hand_over()


def _hearing(traces: Traces) -> Mapping[type[Any], Callable[[Any], None]]:
    return {
        events.UploadsClaimed: traces.claimed,
        events.AttemptsSettled: traces.settled,
        events.UploadRescued: traces.rescued,
        events.RunExpired: traces.expired,
        events.Reconciled: traces.reconciled,
    }


def _resource(version: str) -> Resource:
    """Say who we are; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say comes before what we know."""
    # without host.name, Jaeger doubts that the spans' clocks agree
    known = {"service.name": "reactor", "service.version": version, "host.name": socket.gethostname()}
    return Resource.create({**known, **OTELResourceDetector().detect().attributes})


def _whole(environ: Mapping[str, str], variable: str, default: int) -> int:
    text = environ.get(variable, "").strip()
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ConfigInvalid(f"{variable} must be a whole number above 0, not {text!r}")
    return int(text) if text else default
