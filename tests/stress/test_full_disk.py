"""While the store's disk is full, uploads wait and leave no partial object; they are stored when there is space again.
An upload above the process's file size limit is dead with a reason."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import evolve
from support.app import App
from support.process import REACTOR_RUN, running, settings_of
from support.recorder import Recorder

from reactor.core.events import AttemptSettled, BreakerMoved
from reactor.core.model import Verdict

_MIB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of four MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["/usr/bin/mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a filesystem isn't permitted: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["/usr/bin/umount", "-l", str(disk)], check=True)


async def test_uploads_wait_for_disk_space_and_then_are_stored(app: App, recorder: Recorder, small_disk: Path) -> None:
    app.store = small_disk / "store"
    app.settings = evolve(app.settings, store_url=app.store.as_uri())
    make_ballast(small_disk)
    async with app.running_reactor(recorder):
        uploads = app.queue_uploads(12, content=os.urandom(_MIB // 4))  # 3 MiB of uploads, 1 MiB of free space
        assert (await recorder.wait_for(BreakerMoved)).is_open
        await recorder.wait_for(AttemptSettled, lambda settled: settled.verdict is Verdict.RETRY)
        failed = recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.RETRY)
        assert {event.outcome.code for event in failed} == {"STORAGE_UNAVAILABLE"}
        assert all("No space left on device" in (event.outcome.message or "") for event in failed)
        assert app.one("select count(*) from public.upload_queue where status = 'dead'") == 0
        whole = [path for path in every_file(app.store) if path.stat().st_size == _MIB // 4]
        assert every_file(app.store) == whole
        (small_disk / "ballast").unlink()
        stored = len(recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.STORED))
        while stored < len(uploads):
            await recorder.wait_for(AttemptSettled)
            stored = len(recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.STORED))
    for upload in uploads:
        app.assert_stored(upload)
    app.assert_usage_matches_rows()


def make_ballast(disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(3 * _MIB))


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_file_above_the_process_limit_is_dead_and_the_others_are_stored(app: App, tmp_path: Path) -> None:
    [large], small = app.queue_uploads(content=os.urandom(2 * _MIB)), app.queue_uploads(5)
    command = ("prlimit", f"--fsize={_MIB}", *REACTOR_RUN)
    with running(settings_of(app), cwd=tmp_path, command=command) as run:
        run.wait_until_ready()
        run.wait_for_line("FILE_TOO_LARGE")
        while app.one("select count(*) from public.upload_queue where status <> 'dead'"):
            assert run.process.poll() is None
        run.terminate()
        assert run.ended() == 0
    row = app.row(large)
    assert row is not None
    assert (row["status"], row["error_code"], row["retry_count"]) == ("dead", "FILE_TOO_LARGE", 1)
    assert not app.stored_path(large).exists()
    for upload in small:
        app.assert_stored(upload)
