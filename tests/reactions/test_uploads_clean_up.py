"""A disk that hangs while spooled files are removed does not block the reactor."""

import asyncio
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest
from loguru import logger
from support.manual_clock import ManualClock
from support.recorder import Recorder
from support.spooled import make_spool, make_upload

from reactor.core.backoff import Backoff
from reactor.core.breakers import Breakers
from reactor.core.model import Signal
from reactor.postgres.connection import DedicatedConnection
from reactor.postgres.upload_queue import UploadQueue
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.reactions.upload_failures import UploadFailures
from reactor.reactions.uploads import FailedUploads, put
from reactor.runtime.thread_pool import ThreadPool
from reactor.storage.spool import Identity, Spool
from reactor.storage.stores.local import LocalStore

PATIENCE_S = 20.0
NO_DATABASE = DedicatedConnection("postgresql://localhost/unused")


class HangingSpool(Spool):
    """A spool in which removals wait until `answers` is set, as on a disk that hangs."""

    def __init__(self, folder: Path) -> None:
        super().__init__({"default": folder})
        self.answers = threading.Event()

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]:
        assert self.answers.wait(PATIENCE_S)
        return super().remove(files)


async def put_once(pool: ThreadPool[UploadAttempt]) -> UploadAttempt:
    """Put the spooled file into the store. Return the attempt in the state that clean_up expects after a settlement."""
    upload = make_upload()
    attempt = UploadAttempt(
        signal=Signal("uploads", upload.id.int, 1), tenant=1, upload=upload, trail=upload.trail(), lease_until=0.0
    )
    pool.submit([attempt])
    while not attempt.ended:
        await pool.progress()
    assert attempt.error is None
    _, attempt.stored_file = attempt.result
    return attempt


async def test_a_removal_that_hangs_is_given_up_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.reactions.uploads._REMOVE_WITHIN_S", 0.05)
    spool = HangingSpool(make_spool(tmp_path))
    (root := tmp_path / "store").mkdir()
    store, clock = LocalStore(root), ManualClock()
    pool = ThreadPool[UploadAttempt](partial(put, spool, store), 1, name="test")
    breakers, backoff = Breakers("store"), Backoff(base_s=1.0, factor=2.0, max_s=60.0, jitter=0.0)
    reaction = FailedUploads(
        UploadQueue(NO_DATABASE, claims=NO_DATABASE, lease_s=30.0),
        executor=pool,
        spool=spool,
        run_in_thread=pool.run,
        breakers=breakers,
        failures=UploadFailures(breakers, backoff, clock=clock, emit=Recorder()),
        clock=clock,
        emit=Recorder(),
        attempt_timeout_s=300.0,
        lease_s=30.0,
    )
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            attempt = await put_once(pool)
            await reaction.clean_up([attempt])
            assert lines == ["The spooled file stays behind: no answer within 0.05 s\n"]
            again = await put_once(pool)  # attempts still run while the removal hangs
    finally:
        spool.answers.set()
        logger.remove(sink)
    monkeypatch.undo()
    await reaction.clean_up([again])
    assert not (tmp_path / "spool" / "upload").exists()
