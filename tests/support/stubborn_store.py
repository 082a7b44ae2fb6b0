"""A real store in a folder, with failures and delays that a test sets."""

import threading
from collections import Counter, defaultdict, deque
from pathlib import Path

from reactor.core.errors import ReactorError, StorageUnavailable
from reactor.storage.stores.base import Body
from reactor.storage.stores.local import LocalStore

WITHIN_S = 30.0


class StubbornStore(LocalStore):
    """Stores objects in a folder. A test can make puts fail or wait."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.puts: Counter[str] = Counter()
        """Puts of each object, by key."""
        self.is_down = False
        """Whether every put fails."""
        self.errors: dict[str, deque[ReactorError]] = defaultdict(deque)
        """Maps a key to the errors that its next puts raise, one each."""
        self.open = threading.Event()
        self.open.set()
        """While it is clear, puts wait, up to WITHIN_S."""
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
