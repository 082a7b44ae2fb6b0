"""Exercises both clients with the standard library and the base installation alone: python client_exercise.py DSN.

tests/deploy/test_distribution.py runs it under every interpreter, with the lowest and the newest dependencies. It must
import nothing of the server and of the tests.
"""

import asyncio
import os
import sys
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from itertools import count
from uuid import UUID, uuid4

import psycopg

import reactor

warnings.simplefilter("error")
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # of os.fork
DSN = sys.argv[1]
NUMBERS = count()


def status_of(source: UUID) -> str:
    """Return how the newest run of a source ended."""
    with psycopg.connect(DSN, autocommit=True) as conn:
        query = "select status from public.interpretation_runs where source_id = %s order by started_at desc limit 1"
        row = conn.execute(query, (source,)).fetchone()
    assert row is not None
    return str(row[0])


def content() -> str:
    return sha256(str(next(NUMBERS)).encode()).hexdigest()


async def exercise_async() -> None:
    async with reactor.ReactorClient(DSN, connections=2, wait_s=20) as client:
        user = uuid4()
        source = (await client.reserve_upload(user, content(), 5)).source_id
        assert (await client.complete_upload(source, "s3://x")).storage_status == "uploaded"
        other = await client.reserve_upload(user, content(), 5)
        assert (await client.fail_upload(other.source_id, "b", "o", "t")).code == "STORAGE_PENDING_RETRY"
        assert (await client.usage(user)).used_bytes == 5
        try:
            await client.reserve_upload(user, content(), 1 << 40)
        except reactor.StorageQuotaExceeded as refusal:
            status = refusal.http_status
        assert status == 402

        async with client.interpretation(source, heartbeat_timeout_s=0.9):
            await handle_failed_task_group()
            await asyncio.sleep(1.2)
        assert status_of(source) == "completed"

        async def stream() -> AsyncIterator[int]:
            async with client.interpretation(source):
                yield 1
                yield 2

        async for _ in stream():
            break
        while status_of(source) == "running":  # noqa: ASYNC110  # another task ends it
            await asyncio.sleep(0.01)
        assert status_of(source) == "failed"

        task = asyncio.create_task(lose(client, source))
        assert await asyncio.wait_for(task, 20) == "lost"
        assert status_of(source) == "failed"


async def handle_failed_task_group() -> None:
    async def fail() -> None:
        raise ValueError

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.sleep(60))
    except* ValueError:
        pass


async def lose(client: reactor.ReactorClient, source: UUID) -> str:
    async def stream() -> AsyncIterator[int]:
        async with client.interpretation(source, timeout_s=0.3):
            await handle_failed_task_group()
            yield 1
            await asyncio.sleep(60)

    tokens = stream()
    assert await anext(tokens) == 1
    await asyncio.sleep(0.6)  # the run is lost while the generator has yielded
    try:
        await anext(tokens)
    except reactor.InterpretationTimeout:
        return "lost"
    return "not lost"


def exercise_sync() -> None:
    with reactor.SyncReactorClient(DSN) as client:
        source = client.reserve_upload(uuid4(), content(), 5).source_id
        client.complete_upload(source, "s3://x")

        def stream() -> Iterator[int]:
            with client.interpretation(source):
                yield 1

        tokens = stream()
        next(tokens)
        del tokens
        assert status_of(source) == "failed"
        try:
            with client.interpretation(source):
                sys.exit(3)
        except SystemExit:
            assert status_of(source) == "failed"
        with client.interpretation(source, heartbeat_timeout_s=0.9) as run:
            if (child := os.fork()) == 0:
                client.usage(uuid4())
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            time.sleep(1.2)
            run.check()
        assert status_of(source) == "completed"


asyncio.run(exercise_async())
exercise_sync()
assert not {"boto3", "click", "loguru", "starlette"} & sys.modules.keys()
sys.stdout.write("exercised\n")
