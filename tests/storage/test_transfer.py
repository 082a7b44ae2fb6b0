"""A spool that hangs delays neither puts nor settlements."""

import asyncio
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from attrs import define
from support.spooled import make_spool, make_upload

from reactor.postgres.upload_queue import Upload
from reactor.runtime.executor import Executor, Job
from reactor.storage.spool import Spool
from reactor.storage.spooled_file import Identity
from reactor.storage.stores.local import LocalStore
from reactor.storage.transfer import SpoolToStore, StoredObject

WITHIN_S = 20.0


class HangingSpool(Spool):
    """A spool on a disk that removes nothing until `answers` is set. No real disk here can hang at a test's command."""

    def __init__(self, folder: Path) -> None:
        super().__init__({"default": folder})
        self.answers = threading.Event()

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        assert self.answers.wait(WITHIN_S)
        return super().remove(files)


@define(kw_only=True, eq=False)
class Put(Job):
    upload: Upload


async def put(executor: Executor[Put], upload: Upload) -> StoredObject:
    job = Put(upload=upload)
    executor.submit([job])
    while not job.ended:
        await executor.progress()
    assert job.error is None
    stored: StoredObject = job.result
    return stored


async def test_a_removal_that_hangs_is_given_up_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.storage.transfer._REMOVE_WITHIN_S", 0.05)
    spool = HangingSpool(make_spool(tmp_path))
    (root := tmp_path / "store").mkdir()
    transfer = SpoolToStore(spool, LocalStore(root), concurrency=1, per_tenant=1)
    upload = make_upload()
    stored = await put(transfer.executor, upload)
    try:
        async with asyncio.timeout(WITHIN_S):
            assert await transfer.remove([(upload, stored)]) == [(upload, "no answer within 0.05 s")]
            assert await put(transfer.executor, upload) == stored  # the hanging call's place is free again
    finally:
        spool.answers.set()
    monkeypatch.undo()
    assert await transfer.remove([(upload, stored)]) == []
    assert not (tmp_path / "spool" / "upload").exists()
