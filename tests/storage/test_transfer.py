"""From the spool into the store: what a spool that hangs may hold up."""

import asyncio
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from attrs import define
from support.spooled import an_upload, laid_out

from reactor.postgres.upload_queue import Upload
from reactor.runtime.executor import Executor, Job
from reactor.storage.spool import Identity, Spool
from reactor.storage.stores.local import LocalStore
from reactor.storage.transfer import SpoolToStore, Stored

PATIENCE_S = 20.0


class Hanging(Spool):
    """A spool on a disk that answers no removal until it is told to. No real disk here can be made to."""

    def __init__(self, folder: Path) -> None:
        super().__init__({"default": folder})
        self.answers = threading.Event()

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        assert self.answers.wait(PATIENCE_S)
        return super().remove(files)


@define(kw_only=True, eq=False)
class Put(Job):
    upload: Upload


class Told:
    """Who has an executor put, one upload after the other."""

    def __init__(self, executor: Executor[Put]) -> None:
        self._executor = executor
        self._heard = asyncio.Event()
        executor.attend(self._hear)

    def _hear(self, _begun: Sequence[Put], ended: Sequence[Put]) -> None:
        if ended:
            self._heard.set()

    async def put(self, upload: Upload) -> Stored:
        self._heard.clear()
        put = Put(upload=upload)
        self._executor.submit([put])
        await self._heard.wait()
        assert put.error is None
        stored: Stored = put.result
        return stored


async def test_a_removal_that_hangs_is_given_up_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.storage.transfer._REMOVE_WITHIN_S", 0.05)
    spool = Hanging(laid_out(tmp_path))
    (root := tmp_path / "store").mkdir()
    transfer = SpoolToStore(spool, LocalStore(root), concurrency=1, per_tenant=1)
    upload = an_upload()
    told = Told(transfer.executor)
    stored = await told.put(upload)
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await transfer.remove([(upload, stored)]) == [(upload, "no answer within 0.05 s")]
            assert await told.put(upload) == stored  # its thread is nobody's any more
    finally:
        spool.answers.set()
    monkeypatch.undo()
    assert await transfer.remove([(upload, stored)]) == []
    assert not (tmp_path / "spool" / "upload").exists()
