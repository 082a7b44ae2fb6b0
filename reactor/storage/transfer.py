"""From the spool into the store: one file at a time to a worker thread, so that neither ever holds up the loop."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from anyio import CancelScope

from reactor.postgres.upload_queue import Upload
from reactor.runtime.executor import Executor
from reactor.runtime.thread_pool import Hands
from reactor.storage.spool import Cancellable, Identity, Spool
from reactor.storage.stores.base import ObjectStore

_AT_ONCE = 50
"""Most files that are removed in one piece of work: short, so that puts go on between."""

_REMOVE_WITHIN_S = 30.0
"""How long the removal of a settlement's files may take."""


class Stored(NamedTuple):
    """A spooled file that is in the store."""

    url: str
    identity: Identity
    """What is removed must still be that file."""


class Put(Cancellable, Protocol):
    """A job whose work is to put an upload; its result is a Stored."""

    upload: Upload


class Transfer(Protocol):
    """Whatever brings an upload's bytes from where the app left them to where they belong."""

    @property
    def store_name(self) -> str:
        """Label of the store; see ObjectStore.name."""

    @property
    def executor(self) -> Executor[Any]:
        """Who puts: streams the spooled file into the store. What Spool.open and ObjectStore.put raise is the error.

        Once a put is dropped nothing more is read; one that had read everything may still arrive.
        """

    async def remove(self, stored: Sequence[tuple[Upload, Stored]]) -> Sequence[tuple[Upload, str]]:
        """Remove the spooled files of uploads whose settlement has committed, at least one; say which stay, and why."""


class SpoolToStore:
    """The `Transfer` of a spool in this machine's folders and a store that blocks."""

    def __init__(self, spool: Spool, store: ObjectStore, *, concurrency: int, per_tenant: int) -> None:
        self._spool = spool
        self._store = store
        self._hands: Hands[Any] = Hands(self._put, concurrency, per_tenant=per_tenant, name="reactor-put")

    @property
    def store_name(self) -> str:
        return self._store.name

    @property
    def executor(self) -> Executor[Any]:
        return self._hands

    def _put(self, put: Put) -> Stored:
        upload = put.upload
        with self._spool.open(
            upload.spool,
            upload.temp_file_path or "",
            size_bytes=upload.byte_size,
            sha256=upload.content_hash or "",
            reader=put,
        ) as body:
            url = self._store.put(upload.bucket, upload.object_path, body, mime_type=upload.mime_type)
            return Stored(url, body.identity)

    async def remove(self, stored: Sequence[tuple[Upload, Stored]]) -> Sequence[tuple[Upload, str]]:
        batches = [stored[first : first + _AT_ONCE] for first in range(0, len(stored), _AT_ONCE)]
        removals = [
            asyncio.ensure_future(self._hands.aside(partial(self._remove, batch), len(batch))) for batch in batches
        ]
        with CancelScope(shield=True):
            await asyncio.wait(removals, timeout=_REMOVE_WITHIN_S)
        left: list[tuple[Upload, str]] = []
        for batch, removal in zip(batches, removals, strict=True):
            if removal.done():
                reasons = removal.result()
            else:
                removal.cancel()  # a disk that hangs must hold up neither settlements nor the end
                reasons = [f"no answer within {_REMOVE_WITHIN_S:g} s"] * len(batch)
            left += [(upload, reason) for (upload, _), reason in zip(batch, reasons, strict=True) if reason]
        return left

    def _remove(self, stored: Sequence[tuple[Upload, Stored]]) -> list[str | None]:
        return self._spool.remove(
            (upload.spool, upload.temp_file_path or "", identity) for upload, (_, identity) in stored
        )
