"""Functions that make a spool with one file, the file's upload and the open file, for tests of spools and stores."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from reactor.postgres.upload_answers import Upload
from reactor.runtime.executor import Job
from reactor.storage.spool import Spool, SpooledFile

CONTENT = bytes(range(256)) * 40
UNPRIVILEGED_UID = 65534


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_spool(outside: Path) -> Path:
    """Make a spool with one file, and a canary with the same bytes outside the spool; return the spool's folder."""
    folder = outside / "spool"
    folder.mkdir()
    (folder / "upload").write_bytes(CONTENT)
    (outside / "canary").write_bytes(CONTENT)
    return folder


def make_upload() -> Upload:
    """Return the upload of the spool's one file, claimed for the first time."""
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
        user_id=uuid4(),
    )


def open_spooled(
    spool: Spool,
    path: str = "upload",
    *,
    name: str = "default",
    size_bytes: int = len(CONTENT),
    digest: str | None = sha256(CONTENT),
    reader: Job | None = None,
) -> SpooledFile:
    """Open a spooled file as an attempt does. The default values fit the file that `make_spool` made."""
    return spool.open(name, path, size_bytes=size_bytes, sha256=digest, reader=reader or Job())


def body_of(content: bytes, *, digest: str | None = None, reader: Job | None = None) -> SpooledFile:
    """Spool these bytes and return the open file. `digest` is the recorded SHA-256, by default that of `content`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "upload").write_bytes(content)
        return open_spooled(
            Spool({"default": Path(folder)}),
            size_bytes=len(content),
            digest=digest or sha256(content),
            reader=reader,
        )


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run the block as a user without privileges, because the modes of files don't restrict root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(UNPRIVILEGED_UID)
    try:
        yield
    finally:
        os.seteuid(0)
