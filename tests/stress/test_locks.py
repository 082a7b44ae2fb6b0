"""Rows that the app locks: only their uploads wait, and they are stored in moments after the lock is released."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString

import anyio
import psycopg
import pytest
from support.app import App, QueuedUpload
from support.polling import until
from support.recorder import Recorder

from reactor.core.events import AttemptSettled, LeaseLost
from reactor.core.model import Verdict

RELEASES = 20
STORED_WITHIN_S = 0.2
USERS = 50
ROUNDS = 8


@contextmanager
def locking(app: App, statement: LiteralString, *parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """Run a statement in a transaction that stays open during the block and is then rolled back."""
    with psycopg.connect(app.url) as conn:
        conn.execute(statement, parameters)
        yield conn
        conn.rollback()


LOCKS_BEFORE_A_CLAIM: list[LiteralString] = [
    "select from public.upload_queue where id = %s for update",
    "update public.upload_queue set metadata = '{}' where id = %s",
    "select from public.upload_queue where id = %s for share",
]


@pytest.mark.parametrize("statement", LOCKS_BEFORE_A_CLAIM)
async def test_a_due_row_is_stored_in_moments_after_its_lock_is_released(
    app: App, recorder: Recorder, statement: LiteralString
) -> None:
    waited_s, uploads = [], []
    async with app.running_reactor(recorder):
        for number in range(RELEASES):
            [upload] = app.queue_uploads(next_retry_at=app.one("select clock_timestamp() + interval '0.05 s'"))
            with locking(app, statement, upload.id):
                await anyio.sleep(0.1 + 0.05 * number)  # how long the app holds the lock
                assert app.row(upload)["status"] == "failed"  # type: ignore[index]
            released = time.monotonic()
            settled = await recorder.wait_for(AttemptSettled, lambda s, u=upload: s.upload_id == u.id)  # type: ignore[misc]
            waited_s.append(time.monotonic() - released)
            assert (settled.verdict, settled.trail.attempt) == (Verdict.STORED, 1)
            uploads.append(upload)
    for upload in uploads:
        app.assert_stored(upload)
    waited_s.sort()
    print(statement, {"median_s": waited_s[RELEASES // 2], "p95_s": waited_s[int(0.95 * RELEASES) - 1]})  # noqa: T201
    assert waited_s[int(0.95 * RELEASES) - 1] <= STORED_WITHIN_S, waited_s


LOCKS_OF_A_USER: dict[str, LiteralString] = {
    "a source that isn't committed": "insert into public.sources (user_id, content_hash, storage_status, byte_size)"
    " values (%(user)s, 'other', 'pending', 1)",
    "the usage row": "select from public.storage_usage where user_id = %(user)s for update",
    "the source": "select from public.sources where id = %(source)s for share",
}


async def settle_seconds(recorder: Recorder, uploads: list[QueuedUpload], locked: QueuedUpload) -> float:
    """Return the seconds until all uploads but the locked one are settled."""
    waiting = {upload.id for upload in uploads if upload is not locked}
    began = time.monotonic()
    while waiting:
        waiting.discard((await recorder.wait_for(AttemptSettled)).upload_id)
    return time.monotonic() - began


@pytest.mark.parametrize("lock", LOCKS_OF_A_USER)
async def test_one_users_lock_holds_up_no_other_user(app: App, recorder: Recorder, lock: str) -> None:
    """49 users' uploads are settled as fast as without the lock of the 50th."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    async with app.running_reactor(recorder):
        for number in range(2 * ROUNDS):
            is_locked = bool(number % 2)
            uploads = app.queue_uploads(USERS, next_retry_at="infinity")
            locked = uploads[USERS // 2]
            values = {"user": locked.user, "source": locked.source}
            with psycopg.connect(app.url) as other:
                if is_locked:
                    other.execute(LOCKS_OF_A_USER[lock], values)
                app.conn.execute(
                    "update public.upload_queue set next_retry_at = 'epoch' where next_retry_at = 'infinity'"
                )
                took_s = await settle_seconds(recorder, uploads, locked)
                seconds[is_locked].append(took_s)
                if is_locked:
                    assert app.row(locked)["status"] == "uploading"  # type: ignore[index]
                other.rollback()
            await until(lambda: app.one("select count(*) from public.upload_queue") == 0)
    assert recorder.events_of(LeaseLost) == []
    app.assert_usage_matches_rows()
    ratio = min(seconds[True]) / min(seconds[False])
    print(lock, {"unlocked_s": min(seconds[False]), "locked_s": min(seconds[True]), "ratio": ratio})  # noqa: T201
    assert ratio <= 1.5  # the goal is 1.2; this bound allows for a busy machine


@asynccontextmanager
async def stopping(app: App, recorder: Recorder) -> AsyncIterator[list[float]]:
    """Run a reactor during the block. The list gets the seconds that the reactor takes to stop."""
    took_s: list[float] = []
    async with app.running_reactor(recorder):
        yield took_s
        began = time.monotonic()
    took_s.append(time.monotonic() - began)


async def test_a_reactor_stops_as_usual_while_a_settlement_is_held_up(app: App, recorder: Recorder) -> None:
    """The upload is left to its lease: the next reactor stores it again."""
    [upload] = app.queue_uploads(next_retry_at="infinity")
    with psycopg.connect(app.url) as other:
        other.execute(LOCKS_OF_A_USER["the usage row"], {"user": upload.user})
        async with stopping(app, recorder) as took_s:
            app.conn.execute("update public.upload_queue set next_retry_at = 'epoch'")
            await until(lambda: app.stored_path(upload).exists())
            await anyio.sleep(0.3)  # the settlement is tried, and is busy
        assert took_s[0] < 1.5
        assert app.row(upload)["status"] == "uploading"  # type: ignore[index]
        other.rollback()
    app.conn.execute("update public.upload_queue set lease_expires_at = now()")
    await app.drain()
    app.assert_stored(upload)


LOCKS_THAT_OUTLIVE_A_LEASE: list[LiteralString] = [
    (
        "select from public.storage_usage as s join public.upload_queue as q using (user_id)"
        " where q.id = %s for update of s"
    ),
    "select from public.upload_queue where id = %s for key share",
]


async def test_a_lock_that_outlives_the_lease_loses_no_attempt(app: App, recorder: Recorder) -> None:
    """While the app holds the user's usage row, the lease is extended; while it holds the queue row, it can't be."""
    async with app.running_reactor(recorder, lease_s=1.0):
        for statement in LOCKS_THAT_OUTLIVE_A_LEASE:
            [upload] = app.queue_uploads(next_retry_at="infinity")
            with locking(app, statement, upload.id):
                app.conn.execute("update public.upload_queue set next_retry_at = 'epoch'")
                await anyio.sleep(3.0)  # three leases
                assert app.row(upload)["retry_count"] == 1  # type: ignore[index]
            settled = await recorder.wait_for(AttemptSettled, lambda s, u=upload: s.upload_id == u.id)  # type: ignore[misc]
            assert (settled.verdict, settled.trail.attempt) == (Verdict.STORED, 1)
    assert recorder.events_of(LeaseLost) == []


async def test_a_locked_exhausted_upload_is_dead_in_moments_after_the_release(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads(next_retry_at="infinity", retry_count=5)
        with locking(app, "select from public.storage_usage where user_id = %s for update", upload.user):
            app.conn.execute("update public.upload_queue set next_retry_at = 'epoch'")
            await anyio.sleep(0.5)  # how long the app holds the lock
            assert app.row(upload)["status"] == "failed"  # type: ignore[index]
        await until(lambda: app.one("select status from public.upload_queue") == "dead", within_s=2.0)
