"""Spooled files are missing, changed, or replaced by links, FIFOs, sockets or folders. Their uploads are dead with a
reason after the first attempt, the other uploads are stored, and no byte outside the spool is read, changed or removed.

There are two independent checks. inotify reports any access to the canary, a file outside the spool, whatever path
leads to it. An audit hook in the reactor's process records every path that the process opens or changes.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.app import App, QueuedUpload
from support.file_watch import untouched
from support.recorder import Recorder
from support.stubborn_store import StubbornStore

from reactor.core.events import AttemptSettled
from reactor.core.model import Verdict
from reactor.storage.stores.base import Body

FORBIDDEN, MISSING, MISMATCH = "SPOOL_PATH_FORBIDDEN", "SPOOL_FILE_MISSING", "CONTENT_MISMATCH"
CONTENT = b"what the row promises" * 500

Tamper = Callable[[Path, Path], None]
"""Tampers with a spooled file. The second argument is the canary, a file outside the spool with the same bytes."""


def _linked(spooled: Path, canary: Path) -> None:
    spooled.unlink()
    spooled.symlink_to(canary)


def _linked_relatively(spooled: Path, canary: Path) -> None:
    spooled.unlink()
    spooled.symlink_to(Path("..") / canary.parent.name / canary.name)


def _hard_linked(spooled: Path, canary: Path) -> None:
    spooled.unlink()
    spooled.hardlink_to(canary)


def _fifo(spooled: Path, _canary: Path) -> None:
    spooled.unlink()
    os.mkfifo(spooled)


def _folder(spooled: Path, _canary: Path) -> None:
    spooled.unlink()
    spooled.mkdir()
    (spooled / "inside").write_bytes(CONTENT)


def _socket(spooled: Path, _canary: Path) -> None:
    spooled.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()  # noqa: PTH109  # a socket's path may have only 107 bytes
        os.chdir(spooled.parent)
        try:
            server.bind(spooled.name)
        finally:
            os.chdir(here)


def _flipped(spooled: Path, _canary: Path) -> None:
    spooled.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])


def _grown(spooled: Path, _canary: Path) -> None:
    spooled.write_bytes(CONTENT + b"x")


def _truncated(spooled: Path, _canary: Path) -> None:
    spooled.write_bytes(CONTENT[:-1])


def _emptied(spooled: Path, _canary: Path) -> None:
    spooled.write_bytes(b"")


TAMPERING: dict[str, tuple[Tamper, str]] = {
    "gone": (lambda spooled, _canary: spooled.unlink(), MISSING),
    "a link out": (_linked, FORBIDDEN),
    "a relative link out": (_linked_relatively, FORBIDDEN),
    "a hard link out": (_hard_linked, FORBIDDEN),
    "a FIFO": (_fifo, FORBIDDEN),
    "a folder": (_folder, FORBIDDEN),
    "a socket": (_socket, FORBIDDEN),
    "a bit flipped": (_flipped, MISMATCH),
    "grown": (_grown, MISMATCH),
    "truncated": (_truncated, MISMATCH),
    "emptied": (_emptied, MISMATCH),
}

PATHS = [
    "../outside/canary", "/etc/passwd", "", ".", "..", "a/../../outside/canary", "out/canary", "./x", "x//y", "x/",
    "out/../canary", "\x7f/../../outside/canary", "//outside/canary", "%2e%2e/outside/canary", "~/canary",
]  # fmt: skip


class FileAccessLog:
    """Records each path that this process opens or changes. Tests share it, because audit hooks can't be removed."""

    def __init__(self) -> None:
        self.is_recording = False
        self.paths: list[str] = []
        sys.addaudithook(self._record)

    def _record(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_recording and event in {"open", "os.remove", "os.rename", "os.link", "os.truncate", "os.chmod"}:
            self.paths += [os.fsdecode(word) for word in arguments[:2] if isinstance(word, str | bytes)]


@pytest.fixture(scope="module")
def access_log() -> FileAccessLog:
    return FileAccessLog()


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file outside the spool. Its content has the hash that the rows name."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "canary").write_bytes(CONTENT)
    return tmp_path / "outside" / "canary"


def assert_unchanged(canary: Path) -> None:
    assert canary.read_bytes() == CONTENT


async def test_tampered_files_are_dead_after_the_first_attempt_and_good_rows_are_stored(
    app: App, recorder: Recorder, canary: Path, access_log: FileAccessLog
) -> None:
    (app.spool / "out").symlink_to(canary.parent)
    tampered: list[tuple[QueuedUpload, str]] = []
    far: dict[str, Any] = {"next_retry_at": "2100-01-01"}
    for tamper, code in TAMPERING.values():
        [upload] = app.queue_uploads(content=CONTENT, **far)
        tamper(app.spool / upload.key, canary)
        tampered.append((upload, code))
    for path in PATHS:
        expected = MISSING if path.startswith(("%2e", "~")) else FORBIDDEN
        tampered += [(upload, expected) for upload in app.queue_uploads(content=CONTENT, temp_file_path=path, **far)]
    tampered += [(u, FORBIDDEN) for u in app.queue_uploads(content=CONTENT, temp_file_path=str(canary), **far)]
    tampered += [(u, FORBIDDEN) for u in app.queue_uploads(content=CONTENT, spool="not-configured", **far)]
    good = app.queue_uploads(20, content=CONTENT, **far)

    async with app.running_reactor(recorder):
        with untouched(canary):
            access_log.paths.clear()
            access_log.is_recording = True
            app.conn.execute("update public.upload_queue set next_retry_at = now()")
            await recorder.wait_for_all(len(tampered) + len(good), AttemptSettled)
            access_log.is_recording = False
    for upload in good:
        app.assert_stored(upload)
    for upload, code in tampered:
        row = app.row(upload)
        assert row is not None
        assert (row["status"], row["error_code"], row["retry_count"]) == ("dead", code, 1), row
        assert row["error_message"]
        assert not app.stored_path(upload).exists()
        assert app.usage(upload) == (0, 0)
    assert_unchanged(canary)
    outside = [path for path in access_log.paths if "canary" in path or "passwd" in path or ".." in path]
    assert outside == [], "the reactor used a path that leads outside the spool"


def test_both_checks_detect_an_access(canary: Path, tmp_path: Path, access_log: FileAccessLog) -> None:
    (tmp_path / "link").symlink_to(canary)
    access_log.paths.clear()
    access_log.is_recording = True
    with pytest.raises(AssertionError), untouched(canary):
        (tmp_path / "link").read_bytes()
    access_log.is_recording = False
    assert str(tmp_path / "link") in access_log.paths


class TamperingStore(StubbornStore):
    """A store that tampers with the spooled file after it was opened and before it is read."""

    def __init__(self, app: App) -> None:
        super().__init__(app.store)
        self._spool = app.spool
        self.tampering: dict[str, Tamper] = {}
        self.canary = app.spool

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        if tamper := self.tampering.pop(key, None):
            tamper(self._spool / key, self.canary)
        return super().put(bucket, key, body, mime_type=mime_type)


def _replaced(spooled: Path, _canary: Path) -> None:
    other = spooled.with_name("other")
    other.write_bytes(b"another's")
    other.replace(spooled)


async def test_a_file_that_replaces_the_spooled_one_after_open_is_neither_read_nor_removed(
    app: App, recorder: Recorder, canary: Path
) -> None:
    store = TamperingStore(app)
    store.canary = canary
    async with app.running_reactor(recorder, store=store):
        with untouched(canary), app.conn.transaction():
            [replaced], [linked] = app.queue_uploads(content=CONTENT), app.queue_uploads(content=CONTENT)
            store.tampering |= {replaced.key: _replaced, linked.key: _linked}
        with untouched(canary):
            for settled in await recorder.wait_for_all(2, AttemptSettled):
                assert settled.verdict is Verdict.STORED
    for upload in (replaced, linked):
        assert app.stored_path(upload).read_bytes() == CONTENT
    assert (app.spool / replaced.key).read_bytes() == b"another's"
    assert (app.spool / linked.key).is_symlink()
    assert_unchanged(canary)


@pytest.mark.parametrize("tamper", [_truncated, _grown, _flipped], ids=["truncated", "grown", "a bit flipped"])
async def test_a_file_that_changes_between_open_and_read_is_not_stored(
    app: App, recorder: Recorder, canary: Path, tamper: Tamper
) -> None:
    store = TamperingStore(app)
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads(content=CONTENT)
            store.tampering[upload.key] = tamper
        settled = await recorder.wait_for(AttemptSettled)
    assert (settled.verdict, settled.outcome.code) == (Verdict.DEAD, MISMATCH)
    assert not app.stored_path(upload).exists()
