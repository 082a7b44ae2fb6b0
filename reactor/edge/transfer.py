"""From the spool into the store: one file at a time to a worker thread, so that neither ever holds up the loop."""

import threading
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

from anyio import CancelScope, to_thread

from reactor.core.errors import ReactorError
from reactor.edge.hands import Hands
from reactor.edge.objects.base import ObjectStore
from reactor.edge.queue import Upload
from reactor.edge.spool import Spool


class Stored(NamedTuple):
    """A spooled file that is in the store."""

    url: str
    identity: tuple[int, int]
    """Device and inode of the file: what is removed must still be that one."""


class Transfer(Protocol):
    """Whatever brings an upload's bytes from where the app left them to where they belong."""

    @property
    def store_name(self) -> str:
        """Label of the store; see ObjectStore.name."""

    async def put(self, upload: Upload) -> Stored:
        """Stream the spooled file into the store. Raises what Spool.open and ObjectStore.put raise.

        Once it is cancelled nothing more is read; a put that had read everything may still arrive.
        """

    async def remove(self, stored: Sequence[tuple[Upload, Stored]]) -> Sequence[tuple[Upload, str]]:
        """Remove the spooled files of uploads whose settlement has committed; say which stay behind, and why."""


class SpoolToStore:
    """The `Transfer` of a spool in this machine's folders and a store that blocks."""

    def __init__(self, spool: Spool, store: ObjectStore, *, concurrency: int) -> None:
        self._spool = spool
        self._store = store
        self._hands = Hands(concurrency, name="reactor-put")

    @property
    def store_name(self) -> str:
        return self._store.name

    async def put(self, upload: Upload) -> Stored:
        cancelled = threading.Event()
        try:
            return await self._hands.do(partial(self._put, upload, cancelled))
        finally:
            cancelled.set()  # whatever made us stop, the thread stops reading

    def _put(self, upload: Upload, cancelled: threading.Event) -> Stored:
        with self._spool.open(
            upload.spool,
            upload.temp_file_path or "",
            size_bytes=upload.byte_size,
            sha256=upload.content_hash or "",
            cancelled=cancelled,
        ) as body:
            url = self._store.put(upload.bucket, upload.object_path, body, mime_type=upload.mime_type)
            return Stored(url, body.identity)

    async def remove(self, stored: Sequence[tuple[Upload, Stored]]) -> Sequence[tuple[Upload, str]]:
        with CancelScope(shield=True):
            left = await to_thread.run_sync(self._remove, stored)
        return left  # noqa: RET504  # by its type, a scope may swallow what would have returned

    def _remove(self, stored: Sequence[tuple[Upload, Stored]]) -> list[tuple[Upload, str]]:
        left: list[tuple[Upload, str]] = []
        for upload, (_, identity) in stored:
            try:
                self._spool.remove(upload.spool, upload.temp_file_path or "", identity)
            except ReactorError as error:
                left.append((upload, str(error)))
            except OSError as error:
                left.append((upload, error.strerror or type(error).__name__))  # its own words name the file
        return left
