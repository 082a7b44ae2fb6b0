"""Events → subscribers at once, and log lines, metrics and spans a moment later. Telemetry never delays work.

OpenTelemetry's own variables configure it: OTEL_EXPORTER_OTLP_ENDPOINT (without it nothing is exported),
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
from reactor.telemetry.collector import collector_of
from reactor.telemetry.export_queue import ExportQueue
from reactor.telemetry.log_lines import LOG_LINES
from reactor.telemetry.metrics import Metrics
from reactor.telemetry.traces import Traces

_DELAY_S = 0.005
"""A log line, metric or span takes 10 to 100 µs: no upload should wait for that between NOTIFY and attempt."""

_SLICE_S = 0.002
"""How long events are processed before the event loop runs other tasks."""

_CLOSE_S = 2.0
"""How long collectors may delay the shutdown, all signals together. CONTRACT §9 allows 3 s."""

Handlers = Mapping[type[Any], Sequence[Callable[[Any], None]]]


class Dispatcher:
    """The `Emit` of one reactor: passes each event to everything that subscribed to its type."""

    def __init__(
        self,
        version: str,
        environ: Mapping[str, str],
        *,
        timers: Callable[[], int] = lambda: 0,
        spool_free_bytes: Callable[[], int] = lambda: 0,
        status: Callable[[], Mapping[str, Any]] = dict,
        subscribers: Sequence[Mapping[type[Any], Callable[[Any], None]]] = (),
    ) -> None:
        """Subscribe. Raises ConfigInvalid when a variable of OpenTelemetry has no valid value.

        Each of `subscribers` maps types of events to what is called at once. `timers` (how many the wheel holds),
        `spool_free_bytes` and `status` (the newest answer of reactor.status(), {} for none) are called when metrics
        are collected.
        """
        # the variables take precedence; without host.name, Jaeger adjusts the spans' times for clock skew
        identity = {"service.name": "reactor", "service.version": version, "host.name": socket.gethostname()}
        resource = Resource.create({**identity, **OTELResourceDetector().detect().attributes})
        self._export_queue: ExportQueue | None = None
        listeners = []
        if (collector := collector_of(environ, "traces")) is not None:
            self._export_queue = ExportQueue(collector, environ)
            sampler = TracerProvider(shutdown_on_exit=False).sampler
            listeners.append(Traces(self._export_queue.add, sampler, resource, version=version).subscriptions())
        collector = collector_of(environ, "metrics")
        self.pushes = collector is not None
        """True when metrics are pushed to a collector, and not only scraped."""
        self.metrics = Metrics(
            resource,
            version=version,
            timers=timers,
            spool_free_bytes=spool_free_bytes,
            status=status,
            collector=collector,
            export_queue=self._export_queue,
        )
        listeners += [self.metrics.subscriptions(), LOG_LINES]
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
        """Process queued events, until that value of time.monotonic()."""
        while self._events and monotonic() < until:
            event = self._events.popleft()
            for handle in self._listeners[type(event)]:
                handle(event)

    def prometheus(self) -> bytes:
        """Return every metric in Prometheus' text format, including all events up to now."""
        self.flush()
        return self.metrics.prometheus()

    async def close(self) -> None:
        """Process and export what is left. Returns within 3 s, whatever a collector does."""
        self.flush()
        await to_thread.run_sync(self._close)

    def _close(self) -> None:
        """Close all signals side by side, so that one that hangs leaves the other its time."""
        deadline = monotonic() + _CLOSE_S
        # a daemon thread: a push that hangs outlives this call, and the process may exit
        pushing = threading.Thread(target=self.metrics.close, args=(_CLOSE_S,), name="reactor-metrics", daemon=True)
        pushing.start()
        if self._export_queue is not None:
            self._export_queue.close(_CLOSE_S)
        pushing.join(max(0.0, deadline - monotonic()))

    def _process_slice(self) -> None:
        """Process events for a moment, and schedule the rest behind the loop's other tasks."""
        self._is_scheduled = False
        self.flush(monotonic() + _SLICE_S)
        if self._events:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._process_slice)


def _by_type(subscriptions: Iterable[Mapping[type[Any], Callable[[Any], None]]]) -> Handlers:
    """Return what to call for each type of event, in order."""
    handlers: dict[type[Any], list[Callable[[Any], None]]] = {}
    for mapping in subscriptions:
        for kind, handle in mapping.items():
            handlers.setdefault(kind, []).append(handle)
    return handlers
