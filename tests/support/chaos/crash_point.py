"""A reactor that kills itself with SIGKILL at a named point: `python crash_point.py POINT NUMBER`.

It is the shipped reactor with the environment's settings, an extra event handler and a wrapped store. It dies when it
reaches POINT for the NUMBERth time:

    claimed        the claim has committed, no upload has started
    mid-put        the store has received half of the bytes
    put            the store has all bytes, the upload isn't settled
    settled        the row is deleted, the spooled file is not
    reconnecting   the listening connection was just lost
"""

import os
import signal
import sys
from collections.abc import Callable
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


class KillSwitch:
    """Kills this process at the NUMBERth call of `count_down`."""

    def __init__(self, number: int) -> None:
        self._left = number

    def count_down(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class _HalfRead:
    """A body that calls `count_down` before each read of its second half."""

    def __init__(self, body: Body, count_down: Callable[[], None]) -> None:
        self._body = body
        self._count_down = count_down
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
            self._count_down()
        chunk = self._body.read(min(half, size) if size > 0 else half)
        self._read += len(chunk)
        return chunk

    def restart(self) -> None:
        self._body.restart()
        self._read = 0


class _CrashingStore:
    """A store that triggers the kill switch during or after a put."""

    def __init__(self, store: ObjectStore, point: str, switch: KillSwitch) -> None:
        self._store = store
        self._point = point
        self._switch = switch

    @property
    def name(self) -> str:
        return self._store.name

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        through = _HalfRead(body, self._switch.count_down) if self._point == "mid-put" else body
        url = self._store.put(bucket, key, through, mime_type=mime_type)
        if self._point == "put":
            self._switch.count_down()
        return url

    def check(self) -> None:
        self._store.check()

    def renew(self) -> None:
        self._store.renew()

    def close(self) -> None:
        self._store.close()


def crashing_reactor(settings: Settings, point: str, number: int) -> Reactor:
    """Return a reactor that kills this process at the point."""
    switch = KillSwitch(number)
    event = EVENT_OF.get(point)

    def on_event(happened: Event) -> None:
        if event is not None and isinstance(happened, event):
            switch.count_down()  # the reactor emits a settlement before it removes the spooled files

    store = open_store(settings.store_url, concurrency=settings.upload_concurrency)
    return Reactor(settings, store=_CrashingStore(store, point, switch), listener=on_event)


async def _run(point: str, number: int) -> None:
    reactor = crashing_reactor(configuration.load(os.environ, None), point, number)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reactor.run)
            tasks.start_soon(_print_ready, reactor)
            async for _ in signals:
                reactor.stop()
                return


async def _print_ready(reactor: Reactor) -> None:
    """When the reactor is ready, print the line with its address that `reactor run` logs."""
    await reactor.wait_ready()
    sys.stderr.write(f"ready; status at {reactor.http_url}/api/status\n")
    sys.stderr.flush()


if __name__ == "__main__":
    anyio.run(_run, sys.argv[1], int(sys.argv[2]))
