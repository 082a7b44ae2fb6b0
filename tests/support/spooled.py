"""A spool with one file in it, and the file opened: what tests of the spool and of the stores begin with."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from reactor.postgres.upload_queue import Upload
from reactor.runtime.executor import Job
from reactor.storage.spool import Spool, SpooledFile

CONTENT = bytes(range(256)) * 40
NOBODY = 65534


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def laid_out(outside: Path) -> Path:
    """Make a spool with one file in it, and a canary of the same bytes beside the spool."""
    folder = outside / "spool"
    folder.mkdir()
    (folder / "upload").write_bytes(CONTENT)
    (outside / "canary").write_bytes(CONTENT)
    return folder


def an_upload() -> Upload:
    """Return the one file's upload, just claimed for the first time."""
    return Upload(
        token=uuid4(),
        id=uuid4(),
        due_at=0.0,
        claimed_at=0.0,
        created_at=0.0,
        attempt=1,
        max_retries=5,
        byte_size=len(CONTENT),
        bucket="bucket",
        object_path="path",
        content_hash=sha256(CONTENT),
        spool="default",
        temp_file_path="upload",
        mime_type=None,
        traceparent="",
        last_code=None,
        ordinal=1,
        waited_since=None,
        lost_at=None,
        source_id=uuid4(),
    )


def opened(
    spool: Spool,
    path: str = "upload",
    *,
    name: str = "default",
    size_bytes: int = len(CONTENT),
    digest: str | None = sha256(CONTENT),
    reader: Job | None = None,
) -> SpooledFile:
    """Open a file that holds CONTENT, unless told otherwise."""
    return spool.open(name, path, size_bytes=size_bytes, sha256=digest, reader=reader or Job())


def body_of(content: bytes, *, digest: str | None = None, reader: Job | None = None) -> SpooledFile:
    """Spool these bytes and open them; `digest` to promise other bytes than they are."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "upload").write_bytes(content)
        return opened(
            Spool({"default": Path(folder)}),
            size_bytes=len(content),
            digest=digest or sha256(content),
            reader=reader,
        )


@contextmanager
def unprivileged() -> Iterator[None]:
    """Act as a user to whom file modes apply; root ignores them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
