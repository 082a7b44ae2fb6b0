"""Each call of ReactorClient has its effect in the database, and a refusal is raised as a typed error."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from anyio import create_task_group, fail_after, sleep
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from support.rows import Rows

import reactor
from reactor import ReactorClient
from reactor.core.errors import (
    DatabaseForbidden,
    DatabaseUnavailable,
    InvalidArgument,
    NotFound,
    StorageQuotaExceeded,
    StorageUploadFailed,
)

HASH = sha256(b"content").hexdigest()
GIB = 1 << 30


@pytest.fixture
async def client(migrated_url: str) -> AsyncIterator[ReactorClient]:
    async with ReactorClient(migrated_url) as client:
        yield client


async def test_a_completed_upload_turns_its_reservation_into_usage(client: ReactorClient, rows: Rows) -> None:
    user = uuid4()
    reservation = await client.reserve_upload(user, HASH, 7, "text/plain", "a.txt", source_metadata={"from": "test"})
    assert (reservation.deduplicated, reservation.storage_status, reservation.storage_url) == (False, "pending", None)
    usage = await client.usage(user)
    assert (usage.used_bytes, usage.reserved_bytes, usage.remaining_bytes) == (0, 7, GIB - 7)

    stored = await client.complete_upload(reservation.source_id, "s3://files/a")

    assert (stored.source_id, stored.storage_status) == (reservation.source_id, "uploaded")
    usage = await client.usage(str(user))
    assert (usage.plan, usage.used_bytes, usage.reserved_bytes, usage.sources) == ("free", 7, 0, 1)
    assert usage.resets_at > datetime.now(UTC)
    source = rows.source_row(reservation.source_id)
    assert (source.mime_type, source.file_name, source.source_metadata) == ("text/plain", "a.txt", {"from": "test"})


async def test_reserving_the_same_content_twice_returns_the_same_source(client: ReactorClient) -> None:
    user = uuid4()
    first = await client.reserve_upload(user, HASH, 7)
    second = await client.reserve_upload(user, HASH, 7)
    assert (second.source_id, second.deduplicated) == (first.source_id, True)
    assert (await client.usage(user)).reserved_bytes == 7


async def test_a_failed_upload_is_queued_in_the_callers_trace(client: ReactorClient, rows: Rows) -> None:
    source = (await client.reserve_upload(uuid4(), HASH, 7)).source_id
    with TracerProvider().get_tracer("test").start_as_current_span("ingest") as span:
        queued = await client.fail_upload(source, "files", "a", "spooled", "503", spool="other", metadata={"n": 1})
        again = await client.fail_upload(source, "files", "a", "spooled", "503")

    assert (queued.storage_status, queued.code) == ("pending", "STORAGE_PENDING_RETRY")
    assert again == queued
    assert queued.queue_id is not None
    row = rows.upload_row(queued.queue_id)
    assert (row.bucket, row.object_path, row.temp_file_path, row.spool) == ("files", "a", "spooled", "other")
    assert (row.status, row.error_message, row.metadata, row.byte_size) == ("failed", "503", {"n": 1}, 7)
    assert row.traceparent.split("-")[1] == trace.format_trace_id(span.get_span_context().trace_id)


async def test_a_refusal_is_a_typed_error_with_code_and_details(client: ReactorClient) -> None:
    with pytest.raises(StorageQuotaExceeded) as caught:
        await client.reserve_upload(uuid4(), HASH, GIB + 1)
    error = caught.value
    assert isinstance(error, reactor.ReactorError)
    assert error.code == "STORAGE_QUOTA_EXCEEDED"
    assert not error.retryable
    assert error.details == {
        "plan": "free",
        "limit_bytes": GIB,
        "used_bytes": 0,
        "reserved_bytes": 0,
        "requested_bytes": GIB + 1,
    }
    assert error.to_dict() == {
        "ok": False,
        "code": error.code,
        "message": str(error),
        "retryable": False,
        "details": error.details,
    }
    assert "Delete sources or move to a larger plan" in str(error)


async def test_failing_a_dead_upload_is_refused(client: ReactorClient, rows: Rows) -> None:
    source = (await client.reserve_upload(uuid4(), HASH, 7)).source_id
    queued = await client.fail_upload(source, "files", "a", "spooled")
    assert queued.queue_id is not None
    rows.claim([queued.queue_id], token := uuid4())
    rows.settle([(queued.queue_id, token, "dead")], code="STORAGE_REJECTED", message="400")
    with pytest.raises(StorageUploadFailed) as caught:
        await client.fail_upload(source, "files", "a", "spooled")
    assert caught.value.details == {"queue_id": str(queued.queue_id)}


CYCLE: list[Any] = []
CYCLE.append(CYCLE)
SOURCE = UUID(int=1)

BAD: dict[str, tuple[str, Callable[[ReactorClient], Awaitable[object]]]] = {
    "not a UUID": ("user_id", lambda c: c.usage("you")),
    "a user that is None": ("user_id", lambda c: c.usage(None)),  # type: ignore[arg-type]  # on purpose
    "not a hash": ("content_hash", lambda c: c.reserve_upload(uuid4(), "zz", 1)),
    "a hash that is bytes": ("content_hash", lambda c: c.reserve_upload(uuid4(), b"z", 1)),  # type: ignore[arg-type]
    "a negative size": ("byte_size", lambda c: c.reserve_upload(uuid4(), HASH, -1)),
    "a fractional size": ("byte_size", lambda c: c.reserve_upload(uuid4(), HASH, 1.5)),  # type: ignore[arg-type]
    "a size that is a word": ("byte_size", lambda c: c.reserve_upload(uuid4(), HASH, "1")),  # type: ignore[arg-type]
    "an absurd size": ("byte_size", lambda c: c.reserve_upload(uuid4(), HASH, 10**40)),
    "a NUL": ("file_name", lambda c: c.reserve_upload(uuid4(), HASH, 1, file_name="a\0b")),
    "half a surrogate pair": ("file_name", lambda c: c.reserve_upload(uuid4(), HASH, 1, file_name="\ud800")),
    "a long name": ("file_name", lambda c: c.reserve_upload(uuid4(), HASH, 1, file_name="x" * 1025)),
    "a list instead of an object": ("source_metadata", lambda c: c.reserve_upload(
        uuid4(), HASH, 1, source_metadata=[1])),  # type: ignore[arg-type]  # on purpose
    "a NUL in JSON": ("source_metadata", lambda c: c.reserve_upload(uuid4(), HASH, 1, source_metadata={"a": "\0"})),
    "not JSON": ("metadata", lambda c: c.fail_upload(SOURCE, "b", "o", "t", metadata={"a": object()})),
    "an empty bucket": ("bucket", lambda c: c.fail_upload(SOURCE, "", "o", "t")),
    "no path": ("object_path", lambda c: c.fail_upload(SOURCE, "b", "", "t")),
    "no spooled file": ("temp_file_path", lambda c: c.fail_upload(SOURCE, "b", "o", "")),
    "a spool that is a path": ("spool", lambda c: c.fail_upload(SOURCE, "b", "o", "t", spool="../x")),
    "no retries": ("max_retries", lambda c: c.fail_upload(SOURCE, "b", "o", "t", max_retries=0)),
    "no url": ("storage_url", lambda c: c.complete_upload(SOURCE, "")),
    "a config that contains itself": ("config", lambda c: c.interpretation(SOURCE, CYCLE).__aenter__()),
    "a config that is not a number": ("config", lambda c: c.interpretation(SOURCE, math.nan).__aenter__()),
    "a timeout of zero": ("timeout_s", lambda c: c.interpretation(SOURCE, timeout_s=0).__aenter__()),
    "an infinite timeout": ("timeout_s", lambda c: c.interpretation(SOURCE, timeout_s=math.inf).__aenter__()),
    "a negative heartbeat timeout": ("heartbeat_timeout_s", lambda c: c.interpretation(
        SOURCE, heartbeat_timeout_s=-1).__aenter__()),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_an_invalid_argument_is_named_and_changes_nothing(client: ReactorClient, rows: Rows, name: str) -> None:
    argument, call = BAD[name]
    with pytest.raises(InvalidArgument) as caught:
        await call(client)
    assert caught.value.details == {"argument": argument}
    assert argument in str(caught.value)
    assert "p_" + argument not in str(caught.value)
    assert rows.all("select from public.sources") == []
    assert rows.all("select from public.storage_usage") == []


async def test_an_unknown_source_is_not_found(client: ReactorClient) -> None:
    with pytest.raises(NotFound):
        await client.complete_upload(uuid4(), "s3://x")


async def test_a_call_that_waits_in_the_database_does_not_block_the_event_loop(
    client: ReactorClient, migrated_url: str
) -> None:
    """The call waits for a lock, which the test releases in the same event loop."""
    source = (await client.reserve_upload(uuid4(), HASH, 7)).source_id
    with psycopg.connect(migrated_url) as conn:
        conn.execute("select from public.sources for update")
        async with create_task_group() as tasks:
            tasks.start_soon(client.complete_upload, source, "s3://x")
            with fail_after(5):
                while conn.execute("select from pg_locks where not granted").fetchone() is None:  # noqa: ASYNC110
                    await sleep(0.01)
            conn.rollback()
    assert (await client.reserve_upload(uuid4(), HASH, 7)).storage_status == "pending"


async def test_a_call_after_a_broken_connection_succeeds(client: ReactorClient, rows: Rows) -> None:
    user = uuid4()
    await client.usage(user)
    rows.all(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor'"
        " and datname = current_database()"
    )
    assert (await client.usage(user)).plan == "free"


async def test_an_unreachable_database_is_an_error_without_the_password() -> None:
    async def ask() -> None:
        await ReactorClient("postgresql://me:s3cret@127.0.0.1:1/db").usage(uuid4())

    with pytest.raises(DatabaseUnavailable) as caught:
        await ask()
    assert "check the client's dsn" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.retryable


async def test_a_database_without_the_schema_is_an_error_that_names_the_missing_function(database_url: str) -> None:
    with pytest.raises(DatabaseForbidden, match=r"get_usage.*reactor migrate"):
        await ReactorClient(database_url).usage(uuid4())


async def test_a_closed_client_opens_again(client: ReactorClient) -> None:
    await client.aclose()
    assert (await client.usage(uuid4())).plan == "free"
