"""A real store in a folder that fails, or waits, at a test's command."""

import threading
from collections import Counter, defaultdict, deque
from pathlib import Path

from reactor.core.errors import ReactorError, StorageUnavailable
from reactor.storage.stores.base import Body
from reactor.storage.stores.local import LocalStore

HELD_AT_MOST_S = 30.0


class StubbornStore(LocalStore):
    """Keeps objects in a folder, once it has failed as often as it was told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.puts: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        """Puts of one object that ran side by side."""
        self.is_down = False
        self.errors: dict[str, deque[ReactorError]] = defaultdict(deque)
        """What the next puts of an object are answered."""
        self.open = threading.Event()
        self.open.set()
        """Puts wait while it is clear."""
        self._lock = threading.Lock()

    def fail(self, key: str, *errors: ReactorError) -> None:
        """Answer the next puts of this object with these."""
        self.errors[key].extend(errors)

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        with self._lock:
            self.puts[key] += 1
            self.at_once[key] += 1
            self.most_at_once |= self.at_once
        try:
            self.open.wait(HELD_AT_MOST_S)
            if self.is_down:
                raise StorageUnavailable("503: the test's outage", http_status=503)
            if self.errors[key]:
                raise self.errors[key].popleft()
            return super().put(bucket, key, body, mime_type=mime_type)
        finally:
            with self._lock:
                self.at_once[key] -= 1
