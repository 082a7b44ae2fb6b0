"""A store in a folder that fails on purpose: some objects a few times, some always, and all during an outage."""

from collections import Counter
from collections.abc import Mapping
from threading import Lock

from attrs import define, field

from reactor.core.errors import StorageRejected, StorageUnavailable
from reactor.storage.stores.base import Body, ObjectStore

ALWAYS = 1_000_000
"""A number of failures that no upload reaches."""


@define
class FlakyStore:
    """Forwards to a real store each put that it does not fail."""

    inner: ObjectStore
    failures: Mapping[str, int]
    """How many puts of each key fail before one succeeds."""

    refused: frozenset[str]
    """Keys whose puts fail permanently."""

    is_down: bool = False
    puts: Counter[str] = field(factory=Counter)
    """Number of puts by key, outages not counted."""

    _lock: Lock = field(factory=Lock)

    @property
    def name(self) -> str:
        return "flaky"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        with self._lock:
            if self.is_down:
                raise StorageUnavailable("503 ServiceUnavailable: the store is down", http_status=503)
            self.puts[key] += 1
            put_number = self.puts[key]
        if key in self.refused:
            raise StorageRejected("400 InvalidRequest: the object name is not allowed", http_status=400)
        if put_number <= self.failures.get(key, 0):
            raise StorageUnavailable("500 InternalError: please try again", http_status=500)
        return self.inner.put(bucket, key, body, mime_type=mime_type)

    def check(self) -> None:
        self.inner.check()

    def close(self) -> None:
        self.inner.close()
