"""The event loop of a SyncReactorClient survives what is raised in it, and is replaced if it ends."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from support.rows import Rows, rows_of

from reactor import SyncReactorClient
from reactor.client.loop_thread import LoopThread

PATIENCE_S = 30.0


@pytest.fixture
def client(migrated_url: str) -> Iterator[SyncReactorClient]:
    with SyncReactorClient(migrated_url) as client:
        yield client


@pytest.fixture
def source(rows: Rows) -> UUID:
    return rows.source(uuid4(), status="uploaded")


def thread_of(client: SyncReactorClient) -> LoopThread:
    assert client._calls.loop_thread is not None
    return client._calls.loop_thread


def break_loop(client: SyncReactorClient) -> None:
    """End the event loop as a program that closes all file descriptors does."""
    thread = thread_of(client)
    thread._loop.call_soon_threadsafe(thread._loop._selector.close)  # type: ignore[attr-defined]
    thread._thread.join(PATIENCE_S)
    assert thread.has_ended


def test_a_loop_goes_on_after_system_exit_in_a_callback(client: SyncReactorClient, rows: Rows, source: UUID) -> None:
    with client.interpretation(source, heartbeat_timeout_s=0.9) as run:
        thread = thread_of(client)
        thread._loop.call_soon_threadsafe(sys.exit)
        time.sleep(1.2)  # longer than the heartbeat timeout
        run.check()
    assert thread_of(client) is thread
    assert rows.run_row(run.id).status == "completed"


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # its tasks can't end either
def test_a_loop_that_has_ended_is_replaced_and_runs_keep_their_heartbeats(
    client: SyncReactorClient, rows: Rows, source: UUID
) -> None:
    with client.interpretation(source, heartbeat_timeout_s=0.9) as run:
        break_loop(client)
        time.sleep(1.2)  # longer than the heartbeat timeout; the block makes no call
        run.check()
        assert client.usage(uuid4()).plan == "free"
        break_loop(client)
    assert rows.run_row(run.id).status == "completed"
    break_loop(client)
    assert client.usage(uuid4()).plan == "free"
    break_loop(client)
    client.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_call_whose_loop_ends_is_sent_again(client: SyncReactorClient, rows: Rows, migrated_url: str) -> None:
    source = client.reserve_upload(uuid4(), "0" * 64, 1).source_id
    waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool:
        with rows_of(migrated_url) as other, other.conn.transaction():
            other.all("select from public.sources for update")
            call = pool.submit(client.complete_upload, source, "s3://x")
            deadline = time.monotonic() + PATIENCE_S
            while not rows.all(waiting):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            break_loop(client)
        assert call.result(PATIENCE_S).storage_status == "uploaded"
