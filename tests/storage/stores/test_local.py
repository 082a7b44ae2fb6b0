"""A local store writes an object completely or not at all, and never outside its root."""

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from support.spooled import CONTENT, body_of, sha256, unprivileged

from reactor.core.errors import (
    ConfigInvalid,
    ContentMismatch,
    FileTooLarge,
    StorageRejected,
    StorageUnavailable,
)
from reactor.runtime.executor import Job
from reactor.storage.stores.local import LocalStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def put(store: LocalStore, bucket: str, key: str, content: bytes = CONTENT, digest: str | None = None) -> str:
    with body_of(content, digest=digest) as body:
        return store.put(bucket, key, body, mime_type="text/plain")


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if not path.is_dir()]


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs more rights")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - found in PATH


class TestPutting:
    @pytest.mark.parametrize("key", ["a", "a/b/c", "über/x y.pdf", "50%/#?", "...", "new\nline", "k" * 255])
    def test_the_object_is_where_its_url_says(self, store: LocalStore, root: Path, key: str) -> None:
        url = urlsplit(put(store, "bucket", key))

        assert url.scheme == "file"
        assert unquote(url.path) == f"{root}/bucket/{key}"
        assert Path(unquote(url.path)).read_bytes() == CONTENT

    def test_an_empty_object_is_stored(self, store: LocalStore, root: Path) -> None:
        put(store, "bucket", "empty", b"")
        assert (root / "bucket" / "empty").read_bytes() == b""

    def test_an_object_of_many_chunks_is_whole(self, store: LocalStore, root: Path) -> None:
        content = os.urandom(3 * 1024 * 1024 + 17)
        put(store, "bucket", "large", content)
        assert (root / "bucket" / "large").read_bytes() == content

    def test_putting_again_replaces_and_leaves_one_file(self, store: LocalStore, root: Path) -> None:
        put(store, "bucket", "key", b"before")
        put(store, "bucket", "key", b"before")
        put(store, "bucket", "key", b"after")
        assert files(root) == [root / "bucket" / "key"]
        assert (root / "bucket" / "key").read_bytes() == b"after"

    def test_threads_may_put_at_the_same_time(self, store: LocalStore, root: Path) -> None:
        threads = [threading.Thread(target=put, args=(store, "b", f"f/{n % 4}")) for n in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {path.name for path in files(root)} == {"0", "1", "2", "3"}
        assert all(path.read_bytes() == CONTENT for path in files(root))

    def test_modes_follow_the_umask(self, store: LocalStore, root: Path) -> None:
        before = os.umask(0o027)
        try:
            put(store, "bucket", "key")
        finally:
            os.umask(before)
        assert (root / "bucket").stat().st_mode & 0o777 == 0o750
        assert (root / "bucket" / "key").stat().st_mode & 0o777 == 0o640


class TestWholeOrNotAtAll:
    @pytest.fixture(params=["unnamed", "named"])
    def _with_and_without_tmpfile(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run the test twice: with unnamed temporary files, and as on a filesystem that doesn't support them."""
        if request.param == "named":
            monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # opening a folder for writing fails with EISDIR

    @pytest.mark.usefixtures("_with_and_without_tmpfile")
    def test_a_mismatch_leaves_no_file(self, store: LocalStore, root: Path) -> None:
        with pytest.raises(ContentMismatch):
            put(store, "bucket", "key", digest=sha256(b"other"))
        assert files(root) == []

    @pytest.mark.usefixtures("_with_and_without_tmpfile")
    def test_a_mismatch_leaves_the_earlier_object(self, store: LocalStore, root: Path) -> None:
        put(store, "bucket", "key", b"before")
        with pytest.raises(ContentMismatch):
            put(store, "bucket", "key", digest=sha256(b"other"))
        assert files(root) == [root / "bucket" / "key"]
        assert (root / "bucket" / "key").read_bytes() == b"before"

    @pytest.mark.usefixtures("_with_and_without_tmpfile")
    def test_a_cancelled_attempt_leaves_no_file(self, store: LocalStore, root: Path) -> None:
        reader = Job()
        reader.is_cancelled = True
        with (
            body_of(CONTENT, reader=reader) as body,
            pytest.raises(StorageUnavailable, match="cancelled"),
        ):
            store.put("bucket", "key", body, mime_type=None)
        assert files(root) == []

    @pytest.mark.usefixtures("_with_and_without_tmpfile")
    def test_a_put_replaces_an_object(self, store: LocalStore, root: Path) -> None:
        put(store, "bucket", "key", b"before")
        put(store, "bucket", "key")
        assert files(root) == [root / "bucket" / "key"]
        assert (root / "bucket" / "key").read_bytes() == CONTENT

    def test_a_crash_in_the_middle_leaves_no_file(self, root: Path) -> None:
        """The process kills itself after it has written half of the bytes."""
        crash = textwrap.dedent("""
            import os, signal, sys
            from pathlib import Path
            from reactor.storage.stores.local import LocalStore

            class Body:
                size_bytes, sha256, reads = 2_000_000, None, 0

                def read(self, size=-1):
                    self.reads += 1
                    if self.reads == 2:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return bytes(1_000_000)

            LocalStore(Path(sys.argv[1])).put("bucket", "key", Body(), mime_type=None)
        """)
        ended = subprocess.run([sys.executable, "-c", crash, str(root)], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert files(root) == []


class TestStayingInside:
    @pytest.mark.parametrize(
        "key",
        ["", "/", ".", "..", "../canary", "a/../../../canary", "/etc/passwd", "a//b", "a/", "a/./b", "a\0b",
         "a\ud800", "k" * 256, "/".join(["k" * 250] * 20)],
    )  # fmt: skip
    def test_keys_that_lead_out_are_refused(self, store: LocalStore, root: Path, key: str) -> None:
        with pytest.raises(StorageRejected):
            put(store, "bucket", key)
        assert files(root.parent) == []

    @pytest.mark.parametrize("bucket", ["", ".", "..", "a/b", "/", "a\0", "../store", "/tmp"])  # noqa: S108 - refused
    def test_buckets_that_lead_out_are_refused(self, store: LocalStore, root: Path, bucket: str) -> None:
        with pytest.raises(StorageRejected):
            put(store, bucket, "key")
        assert files(root.parent) == []

    def test_a_linked_folder_is_refused(self, store: LocalStore, root: Path, tmp_path: Path) -> None:
        (tmp_path / "outside").mkdir()
        (root / "bucket").symlink_to(tmp_path / "outside")
        (root / "real").mkdir()
        (root / "real" / "link").symlink_to("../../outside")
        for bucket, key in (("bucket", "key"), ("real", "link/key")):
            with pytest.raises(StorageRejected):
                put(store, bucket, key)
        assert files(tmp_path / "outside") == []

    def test_a_link_with_the_objects_name_is_replaced_and_not_followed(
        self, store: LocalStore, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "canary").write_bytes(b"canary")
        (root / "bucket").mkdir()
        (root / "bucket" / "key").symlink_to(tmp_path / "canary")
        put(store, "bucket", "key")
        assert (tmp_path / "canary").read_bytes() == b"canary"
        assert (root / "bucket" / "key").read_bytes() == CONTENT


class TestFailing:
    def test_a_missing_root_is_an_outage_and_is_not_created(self, store: LocalStore, root: Path) -> None:
        root.rmdir()
        with pytest.raises(StorageUnavailable):
            put(store, "bucket", "key")
        assert not root.exists()

    def test_a_key_below_an_object_is_refused(self, store: LocalStore) -> None:
        put(store, "bucket", "key")
        with pytest.raises(StorageRejected):
            put(store, "bucket", "key/below")

    def test_a_key_that_is_a_folder_is_refused(self, store: LocalStore, root: Path) -> None:
        put(store, "bucket", "folder/key")
        with pytest.raises(StorageRejected):
            put(store, "bucket", "folder")
        assert files(root) == [root / "bucket" / "folder" / "key"]

    def test_a_file_beyond_the_systems_limit_is_too_large(self, store: LocalStore, root: Path) -> None:
        with body_of(CONTENT) as body, largest_file(100), pytest.raises(FileTooLarge):
            store.put("bucket", "key", body, mime_type=None)
        assert files(root) == []

    def test_a_full_disk_is_an_outage_and_leaves_no_file(self, store: LocalStore, root: Path) -> None:
        with small_disk(root):
            with pytest.raises(StorageUnavailable, match="No space"):
                put(store, "bucket", "key", bytes(100_000))
            assert files(root) == []

    def test_a_folder_without_rights_is_an_outage(self) -> None:
        with tempfile.TemporaryDirectory() as name, body_of(CONTENT) as body:
            Path(name).chmod(0o555)
            with unprivileged(), pytest.raises(StorageUnavailable, match="Permission"):
                LocalStore(Path(name)).put("bucket", "key", body, mime_type=None)

    def test_nothing_stays_open(self, store: LocalStore) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        put(store, "bucket", "key")
        put(store, "bucket", "key")
        for key in ("key/below", "..", "k" * 256):
            with pytest.raises(StorageRejected):
                put(store, "bucket", key)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestChecking:
    def test_it_creates_the_root_and_leaves_no_file(self, tmp_path: Path) -> None:
        LocalStore(tmp_path / "new" / "store").check()
        assert list((tmp_path / "new" / "store").iterdir()) == []

    def test_an_unusable_root_is_reported_with_the_fix(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigInvalid, match=r"REACTOR_STORE_URL.*make it a folder"):
            LocalStore(tmp_path / "file").check()

    def test_a_root_without_rights_is_reported(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o555)
            with unprivileged(), pytest.raises(ConfigInvalid, match="Permission"):
                LocalStore(Path(name)).check()


def test_a_replacement_that_finds_no_room_for_its_first_name_reports_that(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "documents", "a.txt")
    link = os.link

    def refuse_temporary_names(source: str, name: str, **options: Any) -> None:
        if name != "a.txt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        link(source, name, **options)

    monkeypatch.setattr(os, "link", refuse_temporary_names)
    with pytest.raises(StorageUnavailable, match="No space left on device"):
        put(store, "documents", "a.txt", b"other bytes")
    assert [path.read_bytes() for path in files(root)] == [CONTENT]
