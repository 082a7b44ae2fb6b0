"""Threads can share a SyncReactorClient, a fork gets its own connections, and `check` raises when a run is lost."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from uuid import UUID, uuid4

import pytest
from support.process import python
from support.rows import Rows

from reactor import SyncReactorClient
from reactor.core.errors import InterpretationFailed, InterpretationTimeout, InvalidArgument, StorageQuotaExceeded

HASH = sha256(b"content").hexdigest()


@pytest.fixture
def client(migrated_url: str) -> Iterator[SyncReactorClient]:
    with SyncReactorClient(migrated_url) as client:
        yield client


@pytest.fixture
def source(rows: Rows) -> UUID:
    return rows.source(uuid4(), status="uploaded")


def test_every_method_does_what_the_async_method_does(client: SyncReactorClient, rows: Rows) -> None:
    user = uuid4()
    first = client.reserve_upload(user, HASH, 7, "text/plain", "a.txt", source_type="upload")
    assert client.complete_upload(first.source_id, "s3://x").storage_status == "uploaded"
    second = client.reserve_upload(user, sha256(b"2").hexdigest(), 5)
    queued = client.fail_upload(second.source_id, "files", "b", "spooled", "503", max_retries=2, metadata={"n": 1})
    assert queued.queue_id is not None
    row = rows.upload_row(queued.queue_id)
    assert (row.max_retries, row.metadata, row.error_message) == (2, {"n": 1}, "503")
    usage = client.usage(user)
    assert (usage.used_bytes, usage.reserved_bytes) == (7, 5)
    with pytest.raises(StorageQuotaExceeded):
        client.reserve_upload(user, sha256(b"3").hexdigest(), 1 << 40)
    with pytest.raises(InvalidArgument):
        client.usage("nobody")


def test_a_block_completes_or_fails_its_run(client: SyncReactorClient, rows: Rows, source: UUID) -> None:
    with client.interpretation(source, {"m": 1}) as run:
        run.check()
        assert rows.run_row(run.id).status == "running"
    assert rows.run_row(run.id).status == "completed"

    problem = KeyError("k")
    with pytest.raises(KeyError) as caught, client.interpretation(source) as run:
        raise problem
    assert caught.value is problem
    assert rows.run_row(run.id).error_message == "KeyError: 'k'"

    with client.interpretation(source) as run:
        run.fail("MODEL_REFUSED")
    assert rows.run_row(run.id).error_code == "MODEL_REFUSED"


def test_check_raises_when_the_run_timed_out(client: SyncReactorClient, rows: Rows, source: UUID) -> None:
    deadline = time.monotonic() + 15
    with pytest.raises(InterpretationTimeout), client.interpretation(source, timeout_s=0.3) as run:
        while time.monotonic() < deadline:  # a worker calls check() between two steps
            run.check()
            time.sleep(0.01)
    assert time.monotonic() < deadline
    assert rows.run_row(run.id).error_code == "INTERPRETATION_TIMEOUT"


def test_check_raises_the_reason_even_before_the_block_is_cancelled(client: SyncReactorClient, source: UUID) -> None:
    """A worker that checks continuously sees the loss before the event loop cancels the block."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(5):
            deadline = time.monotonic() + 15
            with pytest.raises(InterpretationTimeout), client.interpretation(source, timeout_s=0.05) as run:
                while time.monotonic() < deadline:
                    run.check()
    finally:
        sys.setswitchinterval(interval_s)


def test_leaving_the_block_raises_if_the_run_ended_elsewhere(
    client: SyncReactorClient, rows: Rows, source: UUID
) -> None:
    with pytest.raises(InterpretationFailed), client.interpretation(source) as run:
        rows.all("select reactor.fail_runs(%s, 'by hand')", ([run.id],))
    assert rows.run_row(run.id).error_message == "by hand"


def test_threads_share_a_client(client: SyncReactorClient) -> None:
    user = uuid4()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.reserve_upload(user, sha256(bytes([n])).hexdigest(), 1), range(40)))
    assert len({answer.source_id for answer in answers}) == 40
    assert client.usage(user).reserved_bytes == 40


def test_a_fork_gets_connections_of_its_own(migrated_url: str) -> None:
    """A web server may load the app, with its client, before the server forks its worker processes."""
    process = python(_FORKING, migrated_url)
    printed, errors = process.communicate(timeout=50)
    assert (printed.split(), errors, process.returncode) == (["child", "free", "parent", "free"], "", 0)


_FORKING = """
import os, sys, uuid
from reactor import SyncReactorClient
client = SyncReactorClient(sys.argv[1])
client.usage(uuid.uuid4())
if (pid := os.fork()) == 0:
    print("child", client.usage(uuid.uuid4()).plan, flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("parent", client.usage(uuid.uuid4()).plan)
"""


def test_an_open_client_does_not_block_the_exit_of_the_process(migrated_url: str) -> None:
    script = "import sys, uuid, reactor; print(reactor.SyncReactorClient(sys.argv[1]).usage(uuid.uuid4()).plan)"
    done = subprocess.run(
        [sys.executable, "-c", script, migrated_url], capture_output=True, text=True, timeout=50, check=True
    )
    assert (done.stdout, done.stderr) == ("free\n", "")


def test_a_closed_client_opens_again(client: SyncReactorClient) -> None:
    client.usage(uuid4())
    client.close()
    client.close()
    assert client.usage(uuid4()).plan == "free"


def test_invalid_arguments_are_reported_by_the_constructor(migrated_url: str) -> None:
    with pytest.raises(InvalidArgument, match="connections"):
        SyncReactorClient(migrated_url, connections=0)


def test_importing_the_package_loads_no_dependency() -> None:
    script = "import sys, reactor; assert not {'psycopg', 'anyio', 'opentelemetry'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50, env=dict(os.environ))
