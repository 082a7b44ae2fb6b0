"""With an embedded server, no other user can read what the reactor creates; existing folders keep their modes."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.app import open_app
from support.process import environment, reactor, running

from reactor.embedded.private import make_private
from reactor.embedded.server import EmbeddedPostgres, running_url

EVERYBODY = 0o022


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_paths(folder: Path) -> dict[str, str]:
    """Return the paths below a folder, and the folder, that other users may enter, read or write."""
    found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    return {
        str(path): stat.filemode(status.st_mode)
        for path, status in found.items()
        if status.st_mode & 0o077 and not stat.S_ISLNK(status.st_mode)
    }


def test_everything_that_a_reactor_with_an_embedded_server_creates_is_private(reachable_folder: Path) -> None:
    data_dir = reachable_folder / "new" / "data"
    spool = reachable_folder / "spools" / "app"
    env = environment(DATA_DIR=str(data_dir), SPOOLS=f"app={spool}", HTTP_PORT="0")
    with umask(EVERYBODY), running(env, cwd=reachable_folder) as run:
        run.wait_until_ready()
        url = running_url(data_dir / "postgres")
        assert url is not None
        with open_app(url, reachable_folder) as app:
            app.spool, app.store = data_dir / "spool", data_dir / "store"
            [upload] = app.queue_uploads(object_path="a/b/c")
            run.wait_for_line(f"upload_id={upload.id} attempt=1 ")
        assert (data_dir / "store" / "files" / "a" / "b" / "c").read_bytes() == upload.content
        assert open_paths(reachable_folder / "new") == {}
        assert open_paths(reachable_folder / "spools") == {}
        run.terminate()
        assert run.ended() == 0


def test_an_existing_folder_keeps_its_mode_and_the_server_starts_in_new_private_ones(reachable_folder: Path) -> None:
    existing = reachable_folder / "existing"
    existing.mkdir()
    existing.chmod(0o711)
    make_private(existing)
    assert stat.S_IMODE(existing.stat().st_mode) == 0o711
    with umask(EVERYBODY), EmbeddedPostgres(existing / "a" / "b" / "postgres", durable=False) as server:
        assert server.pid is not None
    assert open_paths(existing / "a") == {}
    assert stat.S_IMODE(existing.stat().st_mode) == 0o711


@pytest.mark.slow
def test_the_demo_keeps_its_content_private(reachable_folder: Path) -> None:
    with umask(EVERYBODY):
        done = reactor("demo", "--keep", env=environment() | {"TMPDIR": str(reachable_folder)}, within_s=100)
    assert done.returncode == 0, done.stdout + done.stderr
    [home] = reachable_folder.iterdir()
    assert open_paths(home) == {}
