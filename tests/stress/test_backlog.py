"""After a start with 100 000 due uploads, the first claim follows immediately and memory use stays below a limit."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from support.app import App, open_app
from support.process import Running, running, settings_of

ROWS = 100_000
USERS = 500
WATCHED_S = 30.0
CONTENT = b"small"


@pytest.fixture
def app(migrated_url: str) -> Iterator[App]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as home:  # noqa: S108
        with open_app(migrated_url, Path(home)) as app:
            yield app
        shutil.rmtree(home, ignore_errors=True)
        Path(home).mkdir()


def fill(app: App) -> None:
    for number in range(ROWS):
        (app.spool / str(number)).write_bytes(CONTENT)
    app.disable_triggers()
    app.conn.execute(
        "insert into public.sources (id, user_id, content_hash, storage_status, byte_size)"
        " select md5('s' || n)::uuid, md5('u' || n %% %s)::uuid, n, 'pending', %s from generate_series(0, %s) as n",
        (USERS, len(CONTENT), ROWS - 1),
    )
    app.conn.execute(
        "insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size,"
        " temp_file_path) select md5('s' || n)::uuid, md5('u' || n %% %s)::uuid, 'files', n, %s, %s, n"
        " from generate_series(0, %s) as n",
        (USERS, sha256(CONTENT).hexdigest(), len(CONTENT), ROWS - 1),
    )
    app.conn.execute("analyze public.upload_queue")


def memory_mib(run: Running, figure: str) -> float:
    status = Path(f"/proc/{run.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(figure)).split()[1]) / 1024


def left(app: App) -> int:
    count: int = app.one("select count(*) from public.upload_queue")
    return count


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_start_with_a_large_backlog_claims_at_once_in_bounded_memory(app: App, tmp_path: Path) -> None:
    fill(app)
    with running(settings_of(app, LOG_LEVEL="WARNING", RETRY_BASE="30s"), cwd=tmp_path) as run:
        # measure from the first connection, because importing Python modules takes long on a busy machine
        while not app.one("select count(*) from reactor.instance"):
            assert run.process.poll() is None, run.log
        connected = time.monotonic()
        while not app.one("select count(*) from public.upload_queue where status = 'uploading'") and left(app) == ROWS:
            assert run.process.poll() is None, run.log
        first_claim_s = time.monotonic() - connected
        began, had = time.monotonic(), left(app)
        while time.monotonic() - began < WATCHED_S and left(app):
            time.sleep(0.5)
        rate = (had - left(app)) / (time.monotonic() - began)
        peak = memory_mib(run, "VmHWM")
        run.terminate()
        assert run.ended() == 0, run.log
    figures = {"first_claim_s": round(first_claim_s, 2), "stored_per_s": round(rate), "peak_rss_mib": round(peak)}
    print(json.dumps(figures))  # noqa: T201  # shown by pytest -s
    assert app.one("select count(*) from public.upload_queue where status = 'uploading'") == 0
    assert app.one("select count(*) from public.upload_queue where status = 'dead'") == 0
    app.assert_usage_matches_rows()
    assert first_claim_s < 5.0  # the goal is 1 s; this bound allows for a busy machine
    assert peak < 200.0
