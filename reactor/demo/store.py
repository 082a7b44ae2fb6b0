"""A folder store whose puts fail on purpose: a few times or always for some objects, and for all during an outage."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from anyio import sleep

from reactor.core.errors import StorageRejected, StorageUnavailable
from reactor.demo.scenario import DemoFile
from reactor.storage.stores.base import Body
from reactor.storage.stores.local import LocalStore

_OUTAGE_FROM_S = 3.0
_OUTAGE_UNTIL_S = 6.0


class FlakyStore(LocalStore):
    """A folder store that fails the puts of the scenario and stores all other objects."""

    def __init__(self, root: Path, files: Mapping[str, DemoFile]) -> None:
        """`files` maps an object's key to the file, which says how many puts fail."""
        super().__init__(root)
        self._files = files
        self._is_down = False
        self._puts: Counter[str] = Counter()  # number of puts by key, without those during the outage
        self._lock = Lock()

    async def interrupt(self) -> None:
        """Fail all puts from 3 s to 6 s after the call."""
        await sleep(_OUTAGE_FROM_S)
        self._is_down = True
        await sleep(_OUTAGE_UNTIL_S - _OUTAGE_FROM_S)
        self._is_down = False

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        with self._lock:
            if self._is_down:
                raise StorageUnavailable("503 ServiceUnavailable: the store is down", http_status=503)
            self._puts[key] += 1
            put_number = self._puts[key]
        if self._files[key].ending == "refused":
            raise StorageRejected("400 InvalidRequest: the object name is not allowed", http_status=400)
        if put_number <= self._files[key].failing_puts:
            raise StorageUnavailable("500 InternalError: please try again", http_status=500)
        return super().put(bucket, key, body, mime_type=mime_type)
