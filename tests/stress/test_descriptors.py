"""Uploads that find no free file descriptor, wherever they need it, keep all their attempts and are stored later."""

import resource
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from support import aws
from support.app import App
from support.descriptors import no_free_descriptor
from support.manual_clock import ManualClock
from support.process import Running, running, settings_of
from support.recorder import Recorder
from support.servers.fault_server import FaultServer, Request
from support.spooled import make_spool, make_upload, open_spooled

from reactor.core.backoff import Backoff
from reactor.core.breakers import Breakers
from reactor.core.errors import ReactorError
from reactor.core.model import Verdict
from reactor.reactions.upload_failures import UploadFailures
from reactor.storage.spool import Spool
from reactor.storage.stores.s3 import S3Store


def steady_descriptors(pid: int) -> set[int]:
    """Return the open descriptors of a process that does nothing, when its last connections and files are closed."""
    reads: deque[set[int]] = deque(maxlen=10)
    deadline = time.monotonic() + 20.0
    while len(reads) < 10 or any(each != reads[0] for each in reads):
        assert time.monotonic() < deadline, reads
        reads.append({int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()})
        time.sleep(0.05)
    return reads[0]


@contextmanager
def free_descriptors(run: Running, free: int) -> Iterator[None]:
    """Leave the process this many free file descriptors during the block."""
    pid = run.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    is_open = steady_descriptors(pid)
    limit = next(number for number in count() if number - len([fd for fd in is_open if fd < number]) == free)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def assert_unspent(app: App, run: Running, free: int) -> None:
    """Queue uploads that lack a descriptor. Assert that each is then stored by its first attempt."""
    run.wait_until_ready()
    with free_descriptors(run, free):
        uploads = app.queue_uploads(6, object_path="a/b")
        run.wait_for_line("no free file descriptor: Too many open files; check the limit of open files")
    for upload in uploads:
        assert "stored" in run.wait_for_line(f"upload_id={upload.id} attempt=1 ")
    assert run.process.poll() is None


@pytest.mark.parametrize("free", [0, 1, 2])
def test_an_upload_into_a_folder_lacks_a_descriptor(app: App, free: int) -> None:
    """With 0, the spool can't be opened; with 1, the store's folder; with 2, the new file."""
    with running(settings_of(app, UPLOAD_CONCURRENCY="1"), cwd=app.spool) as run:
        assert_unspent(app, run, free)


def stores_and_disconnects(request: Request) -> None:
    request.store()
    request.answer(200, etag='"0"', connection="close")


def test_a_connection_to_s3_lacks_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload, backoff = make_upload(), Backoff(base_s=1.0, factor=2.0, max_s=60.0, jitter=0.0)
    failures = UploadFailures(Breakers("s3"), backoff, clock=ManualClock(), emit=Recorder())
    spool = Spool({"default": make_spool(tmp_path)})
    with FaultServer() as server:
        server.fault = stores_and_disconnects
        aws.use(aws.environment(server.endpoint, access_key="key", secret_key="secret"), monkeypatch)
        store = S3Store(concurrency=1)
        with open_spooled(spool) as body:
            store.put("bucket", "first", body, mime_type=None)  # reads files, and closes its connection
        with open_spooled(spool) as body, no_free_descriptor(), pytest.raises(ReactorError) as raised:
            store.put("bucket", "second", body, mime_type=None)
        store.close()
    outcome = failures.outcome(1, upload, raised.value)
    assert outcome.verdict is Verdict.DEFERRED
    assert outcome.message == "the reactor has no free file descriptor: Too many open files"
