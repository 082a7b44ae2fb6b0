"""A spooled file is read only with the recorded size and SHA-256, and removed only if it hasn't changed since."""

import errno
import gc
import os
import tempfile
from pathlib import Path

import pytest
from support.spooled import CONTENT, make_spool, open_spooled, sha256, unprivileged

from reactor.core.errors import (
    ConfigInvalid,
    ContentMismatch,
    ReactorError,
    SpoolFileMissing,
    StorageUnavailable,
)
from reactor.core.refusal import Guard, Scope
from reactor.runtime.executor import Job
from reactor.storage.spool import Spool, error_for
from reactor.storage.spool_probe import check_spools, least_free_bytes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_spool(tmp_path)


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool({"default": folder})


class TestReading:
    def test_it_returns_the_bytes_and_has_their_size_and_digest(self, spool: Spool) -> None:
        with open_spooled(spool) as body:
            assert body.read() == CONTENT
            assert body.read(1) == b""
            assert body.sha256 == sha256(CONTENT)
            assert body.size_bytes == len(CONTENT)

    def test_any_chunk_size_returns_the_same_bytes(self, spool: Spool) -> None:
        for size in (1, 7, len(CONTENT) - 1, len(CONTENT), len(CONTENT) + 1):
            with open_spooled(spool) as body:
                assert b"".join(iter(lambda: body.read(size), b"")) == CONTENT  # noqa: B023 - called in the same iteration

    def test_an_empty_file_can_be_read(self, folder: Path, spool: Spool) -> None:
        (folder / "empty").touch()
        with open_spooled(spool, "empty", size_bytes=0, digest=sha256(b"")) as body:
            assert body.read(10) == b""

    def test_an_empty_file_with_another_digest_is_a_mismatch(self, folder: Path, spool: Spool) -> None:
        (folder / "empty").touch()
        with pytest.raises(ContentMismatch):
            open_spooled(spool, "empty", size_bytes=0)

    def test_without_a_recorded_digest_only_the_size_is_checked(self, spool: Spool) -> None:
        with open_spooled(spool, digest=None) as body:
            assert body.read() == CONTENT

    def test_a_cancelled_attempt_stops_at_the_next_read(self, spool: Spool) -> None:
        reader = Job()
        with open_spooled(spool, reader=reader) as body:
            body.read(10)
            reader.is_cancelled = True
            with pytest.raises(StorageUnavailable, match="the attempt was cancelled"):
                body.read(10)

    def test_nothing_stays_open(self, spool: Spool, folder: Path) -> None:
        (folder / "link").symlink_to(folder / "upload")
        (folder / "a" / "b").mkdir(parents=True)
        before = self.descriptors()
        with open_spooled(spool):
            pass
        for path, size in (("link", 1), ("upload", 1), ("a/b", 1), ("a/b/c", 1), ("a/b/c/d", 1), ("../x", 1)):
            with pytest.raises(ReactorError):
                open_spooled(spool, path, size_bytes=size)
        assert self.descriptors() == before

    @staticmethod
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def test_a_read_after_closing_reads_nothing(self, spool: Spool) -> None:
        body = open_spooled(spool)
        body.close()
        body.close()
        with pytest.raises(SpoolFileMissing):
            body.read(1)


class TestContent:
    """If a file differs from the recorded size or SHA-256, the store never receives all of its bytes."""

    def test_another_size_is_refused_before_a_read(self, spool: Spool) -> None:
        for size in (0, len(CONTENT) - 1, len(CONTENT) + 1, 2**62):
            with pytest.raises(ContentMismatch, match="size"):
                open_spooled(spool, size_bytes=size)

    @pytest.mark.parametrize("digest", ["", "abc", sha256(CONTENT).upper(), "sha256:" + sha256(CONTENT)])
    def test_a_malformed_digest_matches_nothing(self, spool: Spool, digest: str) -> None:
        with pytest.raises(ContentMismatch):
            open_spooled(spool, digest=digest)

    @pytest.mark.parametrize("chunk", [1, 100, len(CONTENT), -1])
    def test_a_flipped_bit_withholds_the_last_bytes(self, folder: Path, spool: Spool, chunk: int) -> None:
        (folder / "upload").write_bytes(b"\x01" + CONTENT[1:])
        assert self.bytes_read(spool, chunk) < len(CONTENT)

    def test_a_file_that_grows_is_a_mismatch(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            body.read(100)
            with (folder / "upload").open("ab") as file:
                file.write(b"!")
            with pytest.raises(ContentMismatch, match="longer"):
                body.read()

    def test_a_file_that_shrinks_is_a_mismatch(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            body.read(100)
            os.truncate(folder / "upload", 200)
            with pytest.raises(ContentMismatch, match="shorter"):
                body.read()

    def test_a_file_replaced_after_opening_is_not_read(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            (folder / "other").write_bytes(b"other bytes")
            (folder / "other").replace(folder / "upload")
            assert body.read() == CONTENT

    @staticmethod
    def bytes_read(spool: Spool, chunk: int) -> int:
        count = 0
        with open_spooled(spool) as body, pytest.raises(ContentMismatch, match="SHA-256"):
            while True:  # until ContentMismatch is raised
                count += len(body.read(chunk))
        return count


REPLACED = "it was replaced, or written to, since it was read"


class TestRemoving:
    def test_it_removes_the_file_that_it_opened(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            assert spool.remove([("default", "upload", body.identity)]) == [None]
            assert not (folder / "upload").exists()
            assert spool.remove([("default", "upload", body.identity)]) == [None]  # the file is removed already

    def test_files_of_several_folders_and_spools_are_removed_together(self, tmp_path: Path, folder: Path) -> None:
        (other := tmp_path / "other").mkdir()
        (folder / "a" / "b").mkdir(parents=True)
        spool = Spool({"default": folder, "other": other})
        paths = [("default", path) for path in ("1", "2", "a/3", "a/4", "a/b/5", "6")]
        paths += [("other", "1"), ("other", "7")]
        files = []
        for name, path in paths:
            ((other if name == "other" else folder) / path).write_bytes(CONTENT)
            with open_spooled(spool, path, name=name) as body:
                files.append((name, path, body.identity))
        (other / "stays").write_bytes(CONTENT)
        descriptors = Path("/proc/self/fd")
        gc.collect()  # garbage of earlier tests may own descriptors
        before = len([*descriptors.iterdir()])
        assert spool.remove(files) == [None] * len(files)
        assert len([*descriptors.iterdir()]) == before
        left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {"upload", "canary", "stays"}

    def test_files_of_a_spool_that_is_unmounted_stay_with_the_reason(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            folder.rename(folder.with_name("unmounted"))
            [reason] = spool.remove([("default", "upload", body.identity)])
        assert reason is not None
        assert "the spool's directory can't be opened" in reason

    def test_another_file_with_the_name_stays(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            (folder / "other").write_bytes(CONTENT)
            (folder / "other").replace(folder / "upload")
            assert spool.remove([("default", "upload", body.identity)]) == [REPLACED]
        assert (folder / "upload").read_bytes() == CONTENT

    def test_a_file_that_was_overwritten_stays(self, folder: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            identity = body.identity
        (folder / "upload").write_bytes(b"bytes of the next upload")
        assert spool.remove([("default", "upload", identity)]) == [REPLACED]
        assert (folder / "upload").read_bytes() == b"bytes of the next upload"

    def test_a_link_with_the_name_stays_with_its_target(self, tmp_path: Path, spool: Spool) -> None:
        with open_spooled(spool) as body:
            moved = (tmp_path / "spool" / "upload").rename(tmp_path / "moved")
            (tmp_path / "spool" / "upload").symlink_to(moved)
            assert spool.remove([("default", "upload", body.identity)]) == [REPLACED]
        assert moved.read_bytes() == CONTENT

    def test_a_link_with_the_folders_name_is_not_followed(self, tmp_path: Path, folder: Path, spool: Spool) -> None:
        (folder / "a").mkdir()
        (folder / "a" / "upload").write_bytes(CONTENT)
        with open_spooled(spool, "a/upload") as body:
            moved = (folder / "a").rename(tmp_path / "a")
            (folder / "a").symlink_to(moved)
            [reason] = spool.remove([("default", "a/upload", body.identity)])
        assert reason is not None
        assert "link" in reason
        assert (moved / "upload").read_bytes() == CONTENT

    @pytest.mark.parametrize(
        ("name", "path", "reason"),
        [
            ("default", "../canary", "'.' and '..' are not allowed"),
            ("default", "", "empty"),
            ("default", "upload/", "empty"),
            ("other", "upload", "add it to REACTOR_SPOOLS"),
        ],
    )
    def test_a_path_that_cannot_be_opened_removes_nothing(
        self, folder: Path, spool: Spool, name: str, path: str, reason: str
    ) -> None:
        with open_spooled(spool) as body:
            (folder / "next").write_bytes(CONTENT)
            with open_spooled(spool, "next") as other:
                found = spool.remove([(name, path, body.identity), ("default", "next", other.identity)])
        assert found[0] is not None
        assert reason in found[0]
        assert found[1] is None
        assert not (folder / "next").exists()
        assert (folder / "upload").exists()
        assert (folder.parent / "canary").exists()

    def test_a_file_without_permission_stays_with_the_reason(self, reachable_folder: Path) -> None:
        spool = Spool({"default": make_spool(reachable_folder)})
        with open_spooled(spool) as body, unprivileged():
            assert spool.remove([("default", "upload", body.identity)]) == ["Permission denied"]
        assert (reachable_folder / "spool" / "upload").exists()

    def test_a_discarded_file_without_permission_is_an_error_and_stays(self, reachable_folder: Path) -> None:
        spool = Spool({"default": make_spool(reachable_folder)})
        with unprivileged(), pytest.raises(ReactorError, match="Permission denied"):
            spool.discard("default", "upload")
        assert (reachable_folder / "spool" / "upload").exists()
        assert not spool.discard("default", "missing")


class TestChecking:
    def test_a_usable_spool_passes_and_has_free_space(self, folder: Path) -> None:
        check_spools({"default": folder})
        assert least_free_bytes({"default": folder}) > 0

    def test_each_unusable_spool_has_its_own_line(self, folder: Path) -> None:
        with pytest.raises(ConfigInvalid) as caught:
            check_spools({"default": folder, "gone": folder / "missing", "odd": folder / "upload"})
        gone, odd = caught.value.problems
        assert "REACTOR_SPOOL_DIR" in gone
        assert "'gone'" in gone
        assert "create it" in gone
        assert "'odd'" in odd
        assert "isn't a directory" in odd

    def test_a_spool_without_rights_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o555)
            with unprivileged(), pytest.raises(ConfigInvalid, match="owner or mode"):
                check_spools({"default": Path(name)})

    def test_a_missing_spool_has_no_free_space(self, folder: Path) -> None:
        assert least_free_bytes({"default": folder, "gone": folder / "missing"}) == 0


SCOPES = {
    errno.EMFILE: Scope.PASSING,
    errno.ENFILE: Scope.PASSING,
    errno.ENOMEM: Scope.PASSING,
    errno.ESTALE: Scope.SHARED,
    errno.ENOTCONN: Scope.SHARED,
    errno.ETIMEDOUT: Scope.SHARED,
    errno.EHOSTDOWN: Scope.SHARED,
    errno.EREMOTEIO: Scope.SHARED,
    errno.ENOENT: Scope.UPLOAD,
    errno.EACCES: Scope.UPLOAD,
    errno.EIO: Scope.UPLOAD,
    errno.ELOOP: Scope.UPLOAD,
}


@pytest.mark.parametrize("number", SCOPES, ids=errno.errorcode.get)
def test_each_error_of_the_system_has_a_scope(number: int) -> None:
    refusal = error_for(OSError(number, os.strerror(number))).refusal

    assert (refusal.scope, refusal.guard) == (SCOPES[number], Guard.SPOOL)
    assert refusal.may_be_shared is (number in {errno.EACCES, errno.EIO})
