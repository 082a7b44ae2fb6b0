"""Puts spooled files into the store and removes them, in threads: slow disks and stores don't block the event loop."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from anyio import CancelScope

from reactor.postgres.upload_queue import Upload
from reactor.runtime.executor import Executor
from reactor.runtime.thread_pool import ThreadPool
from reactor.storage.spool import Spool
from reactor.storage.spooled_file import Cancellable, Identity
from reactor.storage.stores.base import ObjectStore

_REMOVE_BATCH = 50
"""Files that are removed in one call of the thread pool: short, so that puts run in between."""

_REMOVE_WITHIN_S = 30.0
"""How long the removal of a settlement's files may take."""


class StoredObject(NamedTuple):
    """A spooled file that is now in the store."""

    url: str
    identity: Identity
    """The file is removed only if it still has this identity."""


class Put(Cancellable, Protocol):
    """A job that puts an upload into the store; its result is a StoredObject."""

    upload: Upload


class Transfer(Protocol):
    """Brings the bytes of uploads from where the app left them to the store."""

    @property
    def store_name(self) -> str:
        """Label of the store; see ObjectStore.name."""

    @property
    def executor(self) -> Executor[Any]:
        """The executor of puts. A job's error is what Spool.open or ObjectStore.put raised.

        An abandoned put reads no more of its file; if it has read all, its object may still arrive.
        """

    async def remove(self, stored: Sequence[tuple[Upload, StoredObject]]) -> Sequence[tuple[Upload, str]]:
        """Remove the spooled files of at least one upload whose settlement has committed.

        Return the uploads whose files stay, each with the reason.
        """


class SpoolToStore:
    """The `Transfer` from folders of this machine to a store that blocks."""

    def __init__(self, spool: Spool, store: ObjectStore, *, concurrency: int, per_tenant: int) -> None:
        self._spool = spool
        self._store = store
        self._threads: ThreadPool[Any] = ThreadPool(self._put, concurrency, per_tenant=per_tenant, name="reactor-put")

    @property
    def store_name(self) -> str:
        return self._store.name

    @property
    def executor(self) -> Executor[Any]:
        return self._threads

    def _put(self, put: Put) -> StoredObject:
        upload = put.upload
        with self._spool.open(
            upload.spool,
            upload.temp_file_path or "",
            size_bytes=upload.byte_size,
            sha256=upload.content_hash or "",
            reader=put,
        ) as body:
            url = self._store.put(upload.bucket, upload.object_path, body, mime_type=upload.mime_type)
            return StoredObject(url, body.identity)

    async def remove(self, stored: Sequence[tuple[Upload, StoredObject]]) -> Sequence[tuple[Upload, str]]:
        batches = [stored[first : first + _REMOVE_BATCH] for first in range(0, len(stored), _REMOVE_BATCH)]
        removals = [asyncio.ensure_future(self._threads.run(partial(self._remove, batch))) for batch in batches]
        with CancelScope(shield=True):
            await asyncio.wait(removals, timeout=_REMOVE_WITHIN_S)
        left: list[tuple[Upload, str]] = []
        for batch, removal in zip(batches, removals, strict=True):
            if removal.done():
                reasons = removal.result()
            else:
                removal.cancel()  # a disk that hangs must delay neither settlements nor the shutdown
                reasons = [f"no answer within {_REMOVE_WITHIN_S:g} s"] * len(batch)
            left += [(upload, reason) for (upload, _), reason in zip(batch, reasons, strict=True) if reason]
        return left

    def _remove(self, stored: Sequence[tuple[Upload, StoredObject]]) -> list[str | None]:
        return self._spool.remove(
            (upload.spool, upload.temp_file_path or "", identity) for upload, (_, identity) in stored
        )
