"""A real S3 server is killed and restarted during many uploads, and all of them are stored."""

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from anyio import create_task_group, fail_after, to_thread
from psycopg.rows import dict_row
from support.aws import use
from support.servers.seaweedfs import SeaweedServer

from reactor.app import Reactor
from reactor.core.events import AttemptsSettled, Event
from reactor.core.model import Verdict
from reactor.core.settings import Settings

BUCKET = "uploads"
MIB = 1 << 20


def sizes(files: int, largest: int) -> list[int]:
    """Return sizes in bytes: 0, the largest, and log-uniform sizes between them. All runs use the same sizes."""
    rng = random.Random(files)  # generates test files, no secrets
    spread = [0, 1, largest, largest - 1] + [int(largest ** rng.random()) for _ in range(files)]
    return spread[:files]


def spool_all(url: str, spool: Path, users: list[UUID], sizes_bytes: list[int]) -> dict[str, tuple[str, int]]:
    """Write all files into the spool, queue their uploads, and return each key's SHA-256 and size."""
    rng = random.Random(1)  # generates test files, no secrets
    expected = {}
    with psycopg.connect(url) as conn:
        for number, size in enumerate(sizes_bytes):
            key = f"folder {number % 7}/file-{number}.bin"
            content = rng.randbytes(size)
            digest = hashlib.sha256(content).hexdigest()
            (spool / f"{number}").write_bytes(content)
            row = conn.execute(
                "insert into public.sources (user_id, content_hash, storage_status, byte_size)"
                " values (%s, %s, 'pending', %s) returning id",
                # a user's sources must differ in content; tiny files may be equal, so each gets its own user
                (users[number % len(users)] if size > 8 else uuid4(), digest, size),
            ).fetchone()
            assert row is not None
            conn.execute(
                "insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size,"
                " temp_file_path, max_retries)"
                " select id, user_id, %s, %s, %s, %s, %s, 10 from public.sources where id = %s",
                (BUCKET, key, digest, size, f"{number}", row[0]),
            )
            expected[key] = (digest, size)
    return expected


@asynccontextmanager
async def running(reactor: Reactor) -> AsyncIterator[None]:
    async with create_task_group() as tasks:
        tasks.start_soon(reactor.run)
        yield
        reactor.stop()


async def upload_through_a_restart(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, sizes_bytes: list[int]
) -> None:
    """Store all files; kill and restart the server when a third is stored."""
    spool = folder / "spool"
    spool.mkdir()
    expected = spool_all(url, spool, [uuid4() for _ in range(5)], sizes_bytes)
    server = SeaweedServer(folder / "seaweed")
    await to_thread.run_sync(server.start)
    try:
        server.create_bucket(BUCKET)
        use(server.environment, monkeypatch)
        stored: set[UUID] = set()
        third_stored, all_stored = anyio.Event(), anyio.Event()

        def count_stored(event: Event) -> None:
            if isinstance(event, AttemptsSettled):
                stored.update(attempt.upload_id for attempt in event.attempts if attempt.verdict is Verdict.STORED)
                if len(stored) >= len(expected) / 3:
                    third_stored.set()
                if len(stored) == len(expected):
                    all_stored.set()

        settings = Settings(
            database_url=url,
            store_url="s3://",
            spools={"default": spool},
            retry_base_s=0.5,
            retry_max_s=5.0,
            lease_s=10.0,
            http_port=0,
        )
        async with running(Reactor(settings, listener=count_stored)):
            with fail_after(600):
                await third_stored.wait()
                await to_thread.run_sync(server.kill)
                await to_thread.run_sync(server.start)
                await all_stored.wait()
        client = server.client()
        for key, (digest, size) in expected.items():
            body = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            assert len(body) == size
            assert hashlib.sha256(body).hexdigest() == digest
    finally:
        await to_thread.run_sync(server.kill)
    assert_all_stored(url)
    assert list(spool.iterdir()) == []


def assert_all_stored(url: str) -> None:
    """Assert that the queue is empty, every source is uploaded, and each user's usage matches their sources."""
    with psycopg.connect(url, row_factory=dict_row) as conn:
        assert conn.execute("select * from public.upload_queue").fetchall() == []
        assert conn.execute("select id from public.sources where storage_status <> 'uploaded'").fetchall() == []
        wrong = conn.execute(
            "select * from public.storage_usage as u join (select user_id, sum(byte_size) as bytes, count(*) as n"
            " from public.sources group by user_id) as s using (user_id)"
            " where (u.total_bytes, u.reserved_bytes, u.total_sources) is distinct from (s.bytes, 0, s.n)"
        ).fetchall()
        assert wrong == []


@pytest.mark.s3
@pytest.mark.timeout(120)
async def test_uploads_survive_a_restart_of_the_store(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload_through_a_restart(migrated_url, tmp_path, monkeypatch, sizes(60, 2 * MIB))


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_thousand_files_of_up_to_64_mib_survive_a_restart_of_the_store(
    migrated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload_through_a_restart(migrated_url, tmp_path, monkeypatch, sizes(1000, 64 * MIB))
