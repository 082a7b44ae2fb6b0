"""What is on its way to a collector: sent from a thread of its own, so that nothing ever waits for it.

A collector that is down or hangs costs spans, never work: what can't be sent is kept up to a bound, then the oldest is
dropped. Both are told of once in a while, not once a batch.
"""

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic

from loguru import logger

from reactor.telemetry.otlp import TIMEOUT_S, Collector, NotTaken

_AGAIN_S = 1.0
_AGAIN_AT_MOST_S = 30.0
_TOLD_EVERY_S = 300.0

Serialize = Callable[[], bytes]
_Batch = tuple[int, Serialize]


class Complaint:
    """Says that a collector takes nothing, once in a while; and once that it does again."""

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self._told_at: float | None = None

    def failed(self, reason: str) -> None:
        now = monotonic()
        if self._told_at is None or now - self._told_at > _TOLD_EVERY_S:
            self._told_at = now
            logger.warning("the collector at {} takes no {}: {}", self._name, self._what, reason)

    def succeeded(self) -> None:
        if self._told_at is not None:
            self._told_at = None
            logger.info("the collector at {} takes {} again", self._name, self._what)


class Outbox:
    """Batches of spans on their way to one collector."""

    def __init__(self, collector: Collector, *, room: int) -> None:
        """`room` is how many spans are kept at most."""
        self._collector = collector
        self._room = room
        self._batches: deque[_Batch] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._close_at: float | None = None
        self._complaint = Complaint(collector.name, "spans")
        self.sent = 0
        """Spans that the collector took."""
        self.lost = 0
        """Spans that were dropped: no room for them, refused, or left at the end."""

    def put(self, count: int, serialize: Serialize) -> None:
        """Take `count` spans in; `serialize` is called in the thread that sends them. Never waits."""
        with self._changed:
            self._batches.append((count, serialize))
            self._waiting += count
            while self._waiting > self._room and len(self._batches) > 1:
                self._lose(self._batches.popleft())
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="reactor-spans", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, within_s: float) -> None:
        """Send what is left, and return when that is done or the time is up; what is left then is lost. Blocks."""
        with self._changed:
            self._close_at = monotonic() + within_s
            self._changed.notify()
        if self._thread is not None:
            # a request that hangs may outlive this: the thread is a daemon, and holds up nobody
            self._thread.join(within_s)
        with self._changed:
            lost = self.lost + self._waiting
        if lost:
            logger.warning("{} spans were lost on their way to {}", lost, self._collector.name)

    def _send_all(self) -> None:
        """Send batch after batch until closed and empty, or until the collector fails while closing."""
        while (batch := self._next()) is not None:
            again_s, was_closing = _AGAIN_S, self._is_closing()
            while (failure := self._try(batch)) is not None:
                self._complaint.failed(failure.reason)
                if failure.is_lasting:
                    break
                if was_closing:
                    return  # it had its last chance, and the rest would fare no better
                with self._changed:
                    self._changed.wait_for(self._is_closing, max(again_s, failure.retry_after_s))
                again_s, was_closing = min(2 * again_s, _AGAIN_AT_MOST_S), self._is_closing()
            with self._changed:
                if failure is None:
                    self._complaint.succeeded()
                    self.sent += batch[0]
                    self._waiting -= batch[0]
                else:
                    self._lose(batch)

    def _next(self) -> _Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._is_closing())
            return self._batches.popleft() if self._batches else None

    def _try(self, batch: _Batch) -> NotTaken | None:
        within_s = TIMEOUT_S if self._close_at is None else max(0.01, self._close_at - monotonic())
        try:
            self._collector.send(batch[1](), within_s=within_s)
        except NotTaken as failure:
            return failure
        return None

    def _lose(self, batch: _Batch) -> None:
        self._waiting -= batch[0]
        self.lost += batch[0]

    def _is_closing(self) -> bool:
        return self._close_at is not None
