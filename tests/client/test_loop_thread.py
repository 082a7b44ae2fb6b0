"""The event loop of a SyncReactorClient survives what is raised in it, and is replaced if it ends."""

import sys
import time
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from support.process import python
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


def test_a_loop_goes_on_after_system_exit_in_a_callback(client: SyncReactorClient, rows: Rows, source: UUID) -> None:
    with client.interpretation(source, heartbeat_timeout_s=0.9) as run:
        thread = thread_of(client)
        thread._loop.call_soon_threadsafe(sys.exit)
        time.sleep(1.2)  # longer than the heartbeat timeout
        run.check()
    assert thread_of(client) is thread
    assert rows.run_row(run.id).status == "completed"


def test_a_loop_that_has_ended_is_replaced(migrated_url: str, rows: Rows, source: UUID) -> None:
    """Runs keep their heartbeats, and a call that waits is sent again. In a process: ended loops leave litter."""
    reserved = rows.source(uuid4())
    with rows_of(migrated_url) as other, other.conn.transaction():
        other.all("select from public.sources where id = %s for update", (reserved,))
        process = python(_ENDING_LOOPS, migrated_url, str(source), str(reserved))
        assert process.stdout is not None
        assert process.stdout.readline() == "waits for the lock\n", process.communicate()[1]
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert (printed.split(), process.returncode) == (["free", "uploaded", "free"], 0), errors
    assert "the event loop of SyncReactorClient has ended" in errors
    assert [row.status for row in rows.all("select status from public.interpretation_runs")] == ["completed"]


_ENDING_LOOPS = """
import logging, sys, time, uuid
from concurrent.futures import ThreadPoolExecutor
from reactor import SyncReactorClient

logging.basicConfig()
client = SyncReactorClient(sys.argv[1])

def end_loop():     # as in a program that closes all file descriptors
    thread = client._calls.loop_thread
    thread._loop.call_soon_threadsafe(thread._loop._selector.close)
    thread._thread.join(30)
    assert thread.has_ended

with client.interpretation(sys.argv[2], heartbeat_timeout_s=0.9) as run:
    end_loop()
    time.sleep(1.2)                 # longer than the heartbeat timeout; the block makes no call
    run.check()
    free = client.usage(uuid.uuid4()).plan
    end_loop()
with ThreadPoolExecutor(1) as pool:
    call = pool.submit(client.complete_upload, sys.argv[3], "s3://x")
    time.sleep(1)                   # the call waits for a lock
    end_loop()
    print("waits for the lock", flush=True)
    print(free, call.result(30).storage_status)
end_loop()
print(client.usage(uuid.uuid4()).plan, flush=True)
client.close()
"""
