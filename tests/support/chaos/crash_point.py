"""A reactor that is killed at a named point, by itself, as `kill -9` would: `python dying.py POINT NUMBER`.

It is the reactor as shipped, with a listener and a store before its own, and the environment's settings. The points,
of which the NUMBERth counts: `claimed` (the claim has committed, nothing was done), `mid-put` (half of the bytes are
with the store), `put` (the store has it all, the database doesn't know), `settled` (the row is gone, the spooled file
still there), `reconnecting` (the listening connection was just lost).
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio

from reactor import configuration
from reactor.app import Reactor
from reactor.core.events import AttemptsSettled, Event, ListenerLost, UploadsClaimed
from reactor.core.settings import Settings
from reactor.storage.stores import open_store
from reactor.storage.stores.base import Body, ObjectStore

EVENT_OF: dict[str, type[Any]] = {
    "claimed": UploadsClaimed,
    "settled": AttemptsSettled,
    "reconnecting": ListenerLost,
}
POINTS = ("claimed", "mid-put", "put", "settled", "reconnecting")


class Trap:
    """Kills this process the NUMBERth time that it is sprung."""

    def __init__(self, number: int) -> None:
        self._left = number

    def spring(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class _HalfRead:
    """A body that springs a trap before its last bytes are read."""

    def __init__(self, body: Body, spring: Callable[[], None]) -> None:
        self._body = body
        self._spring = spring
        self._read = 0

    @property
    def size_bytes(self) -> int:
        return self._body.size_bytes

    @property
    def sha256(self) -> str | None:
        return self._body.sha256

    def read(self, size: int = -1, /) -> bytes:
        half = max(1, self.size_bytes // 2)
        if self._read >= half:
            self._spring()
        chunk = self._body.read(min(half, size) if size > 0 else half)
        self._read += len(chunk)
        return chunk


class _Trapped:
    """A store that springs a trap in the midst of a put, or after it."""

    def __init__(self, store: ObjectStore, point: str, trap: Trap) -> None:
        self._store = store
        self._point = point
        self._trap = trap

    @property
    def name(self) -> str:
        return self._store.name

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        through = _HalfRead(body, self._trap.spring) if self._point == "mid-put" else body
        url = self._store.put(bucket, key, through, mime_type=mime_type)
        if self._point == "put":
            self._trap.spring()
        return url

    def check(self) -> None:
        self._store.check()

    def close(self) -> None:
        self._store.close()


def dying_reactor(settings: Settings, point: str, number: int) -> Reactor:
    """Make a reactor that is killed at the point."""
    trap = Trap(number)
    event = EVENT_OF.get(point)

    def listen(heard: Event) -> None:
        if event is not None and isinstance(heard, event):
            trap.spring()  # the reactor tells of a settlement before it removes the files

    store = open_store(settings.store_url, concurrency=settings.upload_concurrency)
    return Reactor(settings, store=_Trapped(store, point, trap), listener=listen)


async def _run(point: str, number: int) -> None:
    reactor = dying_reactor(configuration.load(os.environ, None), point, number)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(reactor.run, ready=lambda: _tell(reactor)))
            async for _ in signals:
                reactor.stop()
                return


def _tell(reactor: Reactor) -> None:
    """Say as `reactor run` does where it listens, once it is ready."""
    if not reactor.not_ready():
        sys.stderr.write(f"ready; status at {reactor.http_url}/api/status\n")
        sys.stderr.flush()


if __name__ == "__main__":
    anyio.run(_run, sys.argv[1], int(sys.argv[2]))
