"""Passes events to subscribers immediately, and to log lines, metrics and spans later, so that work isn't delayed.

OpenTelemetry's variables configure the export: OTEL_EXPORTER_OTLP_ENDPOINT (without it nothing is exported),
OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_SDK_DISABLED and others.
"""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from time import monotonic
from typing import Any

from anyio import to_thread
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider

from reactor.core.events import Event
from reactor.core.refusal import Guard, Place
from reactor.telemetry import known_series
from reactor.telemetry.collector import collector_of
from reactor.telemetry.export_queue import ExportQueue
from reactor.telemetry.log_lines import LogLines
from reactor.telemetry.metrics import Metrics
from reactor.telemetry.traces import Traces

_DELAY_S = 0.005
"""Delay of log lines, metrics and spans. Each takes 10 to 100 µs, which must not delay the start of an attempt."""

_SLICE_S = 0.002
"""Maximum time to process events before the event loop runs other tasks."""

_CLOSE_S = 2.0
"""Time limit of the last exports, which run concurrently, so that `close` returns within 3 s."""

Handlers = Mapping[type[Any], Sequence[Callable[[Any], None]]]


class Dispatcher:
    """The `Emit` of one reactor: passes each event to all subscribers of the event's type."""

    def __init__(
        self,
        version: str,
        environ: Mapping[str, str],
        *,
        timers: Callable[[], int] = lambda: 0,
        spool_free_bytes: Callable[[], int] = lambda: 0,
        status: Callable[[], Mapping[str, Any]] = lambda: known_series.ZERO_FIGURES,
        places: Sequence[Place] = (),
        subscribers: Sequence[Mapping[type[Any], Callable[[Any], None]]] = (),
    ) -> None:
        """Raises ConfigInvalid if a variable of OpenTelemetry has an invalid value.

        Each of `subscribers` maps types of events to functions, which are called immediately. `timers` (number of
        timers in the wheel), `spool_free_bytes` and `status` (newest answer of reactor.status(); {} for none) are
        called when metrics are collected. `places` are the store and the spools, which have a metric from the start.
        """
        # the variables take precedence
        identity = {"service.name": "reactor", "service.version": version, "host.name": socket.gethostname()}
        resource = Resource.create({**identity, **OTELResourceDetector().detect().attributes})
        self._export_queue: ExportQueue | None = None
        listeners = []
        if (collector := collector_of(environ, "traces")) is not None:
            self._export_queue = ExportQueue(collector, environ)
            sampler = TracerProvider(shutdown_on_exit=False).sampler
            store_name = next((name for kind, name in places if kind is Guard.STORE), "")
            traces = Traces(self._export_queue.add, sampler, resource, version=version, store_name=store_name)
            listeners.append(traces.subscriptions())
        collector = collector_of(environ, "metrics")
        self.pushes = collector is not None
        """Whether metrics are pushed to a collector."""
        self.metrics = Metrics(
            resource,
            version=version,
            timers=timers,
            spool_free_bytes=spool_free_bytes,
            status=status,
            places=places,
            collector=collector,
            export_queue=self._export_queue,
        )
        listeners += [self.metrics.subscriptions(), LogLines().subscriptions()]
        self._subscribers = _by_type(subscribers)
        self._listeners = _by_type(listeners)
        self._events: deque[Event] = deque()
        self._is_scheduled = False

    def __call__(self, event: Event) -> None:
        """Call the subscribers of the event's type, and queue it for log lines, metrics and spans."""
        kind = type(event)
        for handle in self._subscribers.get(kind, ()):
            handle(event)
        if kind in self._listeners:
            self._events.append(event)
            if not self._is_scheduled:
                self._is_scheduled = True
                asyncio.get_running_loop().call_later(_DELAY_S, self._process_slice)

    def flush(self, until: float = inf) -> None:
        """Process queued events. Stops when time.monotonic() has reached `until`."""
        while self._events and monotonic() < until:
            event = self._events.popleft()
            for handle in self._listeners[type(event)]:
                handle(event)

    def spans_lost(self) -> tuple[int, float]:
        """Return the number of lost spans, and the seconds since the last loss."""
        queue = self._export_queue
        return (0, 0.0) if queue is None else (queue.lost, monotonic() - queue.lost_at)

    def prometheus(self) -> bytes:
        """Return all metrics, up to the newest event, in Prometheus' text format."""
        self.flush()
        return self.metrics.prometheus()

    async def close(self) -> None:
        """Process and export the remaining events. Returns within 3 s, even if a collector hangs."""
        self.flush()
        await to_thread.run_sync(self._close)

    def _close(self) -> None:
        """Export spans and metrics concurrently, because a collector that hangs must not use up the time of both."""
        deadline = monotonic() + _CLOSE_S
        # a daemon thread, because a push that hangs may run longer than this call and must not keep the process alive
        pushing = threading.Thread(target=self.metrics.close, args=(_CLOSE_S,), name="reactor-metrics", daemon=True)
        pushing.start()
        if self._export_queue is not None:
            self._export_queue.close(_CLOSE_S)
        pushing.join(max(0.0, deadline - monotonic()))

    def _process_slice(self) -> None:
        """Process events for `_SLICE_S`; schedule the remaining events behind other tasks of the event loop."""
        self._is_scheduled = False
        self.flush(monotonic() + _SLICE_S)
        if self._events:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._process_slice)


def _by_type(subscriptions: Iterable[Mapping[type[Any], Callable[[Any], None]]]) -> Handlers:
    """Map each type of event to all its functions, in the order of `subscriptions`."""
    handlers: dict[type[Any], list[Callable[[Any], None]]] = {}
    for mapping in subscriptions:
        for kind, handle in mapping.items():
            handlers.setdefault(kind, []).append(handle)
    return handlers
