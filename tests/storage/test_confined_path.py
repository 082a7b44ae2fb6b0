"""No path in a row opens a file outside the spool, whatever the text of the path and the links in the spool."""

import errno
import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.spooled import CONTENT, make_spool, open_spooled, unprivileged

from reactor.core.errors import ReactorError, SpoolFileMissing, SpoolPathForbidden, SpoolUnavailable
from reactor.storage.spool import Spool


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_spool(tmp_path)


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool({"default": folder})


class TestRefusedPaths:
    def test_a_path_inside_may_be_relative_or_absolute(self, tmp_path: Path, folder: Path) -> None:
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "a" / "b" / "c").write_bytes(CONTENT)
        (tmp_path / "shortcut").symlink_to(folder)
        spool = Spool({"default": tmp_path / "shortcut"})
        for path in ("a/b/c", f"{tmp_path}/shortcut/a/b/c", f"{folder}/a/b/c"):
            with open_spooled(spool, path) as body:
                assert body.read() == CONTENT

    @pytest.mark.parametrize("name", [".x", "...", "a b", "über.pdf", "back\\slash", "new\nline", "-rf", "a" * 255])
    def test_a_name_may_have_any_characters(self, folder: Path, spool: Spool, name: str) -> None:
        (folder / name).write_bytes(CONTENT)
        with open_spooled(spool, name) as body:
            assert body.read() == CONTENT

    @pytest.mark.parametrize(
        "path",
        ["", ".", "..", "/", "../canary", "a/../upload", "./upload", "a//b", "upload/", "upload\0", "\0",
         "/etc/passwd", "//etc/passwd", "upload\ud800", "a/../../canary", "..//..", "/proc/self/environ"],
    )  # fmt: skip
    def test_a_path_that_leads_out_is_refused(self, spool: Spool, path: str) -> None:
        with pytest.raises(SpoolPathForbidden):
            open_spooled(spool, path)

    def test_a_folder_whose_name_begins_with_the_spools_is_outside(self, folder: Path, spool: Spool) -> None:
        sibling = folder.with_name("spool-of-others")
        sibling.mkdir()
        (sibling / "upload").write_bytes(CONTENT)
        for path in (f"{sibling}/upload", f"{folder}/../{sibling.name}/upload", f"{folder}//upload"):
            with pytest.raises(SpoolPathForbidden):
                open_spooled(spool, path)

    def test_an_unknown_spool_is_refused_with_the_fix(self, spool: Spool) -> None:
        with pytest.raises(SpoolPathForbidden, match="REACTOR_SPOOLS"):
            open_spooled(spool, name="other")

    @pytest.mark.parametrize("target", ["../canary", "upload", "missing", "/etc/passwd", "loop"])
    def test_a_link_is_refused_wherever_it_leads(self, folder: Path, spool: Spool, target: str) -> None:
        (folder / "loop").symlink_to(target)
        with pytest.raises(SpoolPathForbidden):
            open_spooled(spool, "loop")

    def test_a_linked_folder_is_refused(self, folder: Path, spool: Spool) -> None:
        (folder / "inside").mkdir()
        (folder / "inside" / "upload").write_bytes(CONTENT)
        (folder / "out").symlink_to("..")
        (folder / "in").symlink_to("inside")
        for path in ("out/canary", "in/upload", "out/spool/upload"):
            with pytest.raises(SpoolPathForbidden):
                open_spooled(spool, path)

    def test_a_hard_link_is_refused(self, tmp_path: Path, folder: Path, spool: Spool) -> None:
        os.link(tmp_path / "canary", folder / "linked")
        with pytest.raises(SpoolPathForbidden, match="hard link"):
            open_spooled(spool, "linked")

    def test_a_fifo_is_refused_without_waiting_for_a_writer(self, folder: Path, spool: Spool) -> None:
        os.mkfifo(folder / "fifo")
        with pytest.raises(SpoolPathForbidden):
            open_spooled(spool, "fifo")

    def test_a_socket_is_refused(self, folder: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)  # a socket's path has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            with pytest.raises(SpoolPathForbidden):
                open_spooled(spool, "socket")

    def test_a_device_is_refused(self) -> None:
        with pytest.raises(SpoolPathForbidden):
            open_spooled(Spool({"default": Path("/dev")}), "null", size_bytes=0)

    def test_a_folder_is_refused(self, folder: Path, spool: Spool) -> None:
        (folder / "a").mkdir()
        with pytest.raises(SpoolPathForbidden):
            open_spooled(spool, "a")

    def test_a_file_used_as_a_folder_is_refused(self, spool: Spool) -> None:
        with pytest.raises(SpoolPathForbidden):
            open_spooled(spool, "upload/upload")

    @pytest.mark.parametrize("path", ["missing", "missing/upload", "a" * 256, "/".join(["a" * 200] * 30)])
    def test_a_file_that_does_not_exist_is_missing(self, spool: Spool, path: str) -> None:
        with pytest.raises(SpoolFileMissing):
            open_spooled(spool, path)

    def test_an_unreadable_file_is_missing(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.chmod(0o755)
            (folder / "upload").write_bytes(CONTENT)
            (folder / "upload").chmod(0)
            with unprivileged(), pytest.raises(SpoolFileMissing, match=os.strerror(errno.EACCES)):
                open_spooled(Spool({"default": folder}))

    def test_an_unmounted_spool_is_an_outage_and_not_a_missing_file(self, folder: Path, spool: Spool) -> None:
        folder.rename(folder.with_name("gone"))
        with pytest.raises(SpoolUnavailable):
            open_spooled(spool)

    def test_an_empty_folder_on_another_disk_is_an_outage_and_not_a_missing_file(
        self, folder: Path, tmp_path: Path
    ) -> None:
        """An unmounted disk leaves the folder to which it was mounted."""
        mount = tmp_path / "mount"
        mount.symlink_to(folder)
        spool = Spool({"default": mount})
        mount.unlink()
        mount.symlink_to("/proc/self/fd")  # every system has this second file system
        with pytest.raises(SpoolUnavailable, match="another disk"):
            open_spooled(spool)

    @pytest.mark.parametrize("path", ["secret", "../secret", "s\0ecret", "secret-link", "secret-file", "/secret"])
    def test_messages_never_contain_the_path(self, folder: Path, spool: Spool, path: str) -> None:
        (folder / "secret-link").symlink_to("secret")
        (folder / "secret-file").write_bytes(b"secret")
        with pytest.raises(ReactorError) as caught:
            open_spooled(spool, path)
        text = f"{caught.value} {caught.value!r} {caught.value.__cause__}"
        assert "secret" not in text
        assert str(folder) not in text


class TestNoTextLeadsOut:
    """Invariant: no file outside the spools is ever opened."""

    PIECES = st.sampled_from(
        ["..", ".", "", "/", "//", "upload", "out", "in", "loop", "canary", "spool", "\0", "\n", "%2e%2e",
         "~", "..\\", "\u2025", "\uff0e\uff0e", "\ud800", "proc", "self", "root", "etc", "passwd", "a" * 300]
    )  # fmt: skip
    PATHS = st.one_of(
        st.lists(PIECES, max_size=12).map("/".join),
        st.lists(PIECES, max_size=12).map("".join),
        st.text(max_size=80),
    )

    @settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(path=PATHS, absolute=st.booleans(), data=st.data())
    def test_no_text_opens_a_file_outside(
        self, tmp_path: Path, folder: Path, path: str, absolute: bool, data: st.DataObject
    ) -> None:
        """The file outside has the recorded bytes, so only the path check can refuse it."""
        self.make_links(tmp_path, folder)
        if absolute:
            path = data.draw(st.sampled_from([str(folder), str(tmp_path), "/", ""])) + "/" + path
        try:
            body = open_spooled(Spool({"default": folder}), path)
        except (SpoolPathForbidden, SpoolFileMissing):
            pass
        else:
            with body:
                found = (folder / "upload").stat()
                assert body.identity == (found.st_dev, found.st_ino, found.st_mtime_ns)
        assert (tmp_path / "canary").read_bytes() == CONTENT

    @staticmethod
    def make_links(outside: Path, folder: Path) -> None:
        for name, target in (("out", ".."), ("in", "."), ("loop", "loop"), ("root", "/")):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(target)
        if not (folder / "canary").exists():
            (folder / "canary").hardlink_to(outside / "canary")
