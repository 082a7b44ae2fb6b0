"""Drain a queue with a reactor and measure the time. The script uses a store that discards everything."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg
from loguru import logger

from reactor.app import Reactor
from reactor.cli.process import tune_garbage_collector
from reactor.core.events import AttemptsSettled, Event, UploadsClaimed
from reactor.postgres.upload_answers import NOTHING_HELD, ClaimedUploads, Held
from reactor.postgres.upload_queue import UploadQueue
from reactor.storage.stores.base import ObjectStore

from .own_process import Figures, print_figures
from .server import NoStore, settings


def drain_all(url: str, spool: Path, store: ObjectStore, uploads: int) -> Figures:
    """Drain a queue of `uploads` uploads. The rate is measured from the first claim to the last commit."""
    began, ended, claims, settled = 0.0, 0.0, 0, 0
    claim = UploadQueue.claim

    async def beginning(self: UploadQueue, rows: Sequence[int], held: Held = NOTHING_HELD) -> ClaimedUploads:
        nonlocal began
        if len(rows):  # the first claim names no rows: it only prepares the statement
            began = began or time.monotonic()
        return await claim(self, rows, held)

    def on_event(event: Event) -> None:
        nonlocal ended, claims, settled
        if type(event) is AttemptsSettled:
            settled += len(event.attempts)
            ended = time.monotonic()
        elif type(event) is UploadsClaimed:
            claims += 1

    cpu = time.process_time()
    reactor = Reactor(settings(url, spool), store=store, listener=on_event)
    UploadQueue.claim = beginning  # type: ignore[method-assign]
    try:
        asyncio.run(reactor.drain())
    finally:
        UploadQueue.claim = claim  # type: ignore[method-assign]
    cpu = time.process_time() - cpu
    with psycopg.connect(url) as conn:
        assert conn.execute("select count(*) from public.upload_queue").fetchone() == (0,)
    assert settled >= uploads
    return {"per_s": uploads / (ended - began), "cpu_us": 1e6 * cpu / uploads, "rows_a_claim": uploads / claims}


if __name__ == "__main__":
    logger.remove()
    tune_garbage_collector()  # as `reactor reconcile` does
    print_figures(drain_all(sys.argv[1], Path(sys.argv[2]), NoStore(), int(sys.argv[3])))
