"""A reactor in the bench's own process, for the cases that measure latency."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import psycopg

from reactor.app import Reactor
from reactor.core.events import Event
from reactor.postgres.statements import CLAIM_UPLOADS

from .server import BenchServer, NoStore, settings

BEFORE = (
    "insert into public.sources (id, user_id, content_hash, storage_status, byte_size)"
    " values (%(name)s::uuid, md5('app')::uuid, md5(%(name)s::text) || md5(%(name)s::text), 'pending', 0)"
)
ENQUEUE = (
    "insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size, temp_file_path)"
    " values (%(name)s::uuid, md5('app')::uuid, 'bench', %(name)s::text,"
    " 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 0, %(name)s::text)"
)


@asynccontextmanager
async def running_reactor(bench: BenchServer, url: str, on_event: Callable[[Event], None]) -> AsyncIterator[str]:
    """Run a reactor during the block; yield the folder of its spool when the reactor is ready."""
    with bench.spool() as spool:
        reactor = Reactor(settings(url, spool), store=NoStore(), listener=on_event)
        running = asyncio.create_task(reactor.run())
        waiting = asyncio.create_task(reactor.wait_ready())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            waiting.cancel()
            await running
        try:
            yield str(spool)
        finally:
            reactor.stop()
            await running


async def claim_one(conn: psycopg.AsyncConnection, row_id: UUID | str) -> None:
    """Claim one row; repeat the claim until it succeeds, because a claim before the due time is refused."""
    rows: list[tuple[object, ...]] = []
    while not rows or rows[0][0] != "claimed":
        rows = await (await conn.execute(CLAIM_UPLOADS, ([row_id], uuid4(), "30 s"), binary=True)).fetchall()
