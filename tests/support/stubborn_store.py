"""A real store in a folder, with failures and delays that a test sets."""

import threading
from collections import Counter, defaultdict, deque
from pathlib import Path

from reactor.core.errors import ReactorError, StorageUnavailable
from reactor.storage.stores.base import Body
from reactor.storage.stores.local import LocalStore

WITHIN_S = 30.0


class StubbornStore(LocalStore):
    """Stores objects in a folder, after the failures that a test has set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.puts: Counter[str] = Counter()
        """Puts of each object, by key."""
        self.is_down = False
        """Whether all puts fail."""
        self.errors: dict[str, deque[ReactorError]] = defaultdict(deque)
        """The errors of the next puts of each object, by key."""
        self.open = threading.Event()
        self.open.set()
        """While it is clear, puts wait."""
        self._lock = threading.Lock()

    def fail(self, key: str, *errors: ReactorError) -> None:
        """Make the next puts of this object fail with these errors."""
        self.errors[key].extend(errors)

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        with self._lock:
            self.puts[key] += 1
        self.open.wait(WITHIN_S)
        if self.is_down:
            raise StorageUnavailable("503: the test's outage", http_status=503)
        if self.errors[key]:
            raise self.errors[key].popleft()
        return super().put(bucket, key, body, mime_type=mime_type)
