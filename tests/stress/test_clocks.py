"""The host's clock is wrong by minutes or a day. The reactor uses the database's clock, so nothing is early or late."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.app import App
from support.process import running, settings_of

LIBRARIES = [
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib").glob("faketime/libfaketimeMT.so.1"),
]
_DUE_S = 3.0
_LATE_S = 1.5


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.skipif(not LIBRARIES, reason="libfaketime isn't installed: apt-get install faketime")
@pytest.mark.parametrize("offset", ["+1d", "-1d", "+5m", "-5m"])
def test_retries_and_deadlines_are_on_time_by_the_databases_clock(app: App, tmp_path: Path, offset: str) -> None:
    env = settings_of(app) | {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": offset,
        # only the wall clock is wrong, not the monotonic clock
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    clock = [sys.executable, "-c", "import time; print(time.time())"]
    faked = subprocess.run(clock, env=env, capture_output=True, text=True, check=True)
    assert abs(float(faked.stdout) - time.time()) > 200  # libfaketime has an effect

    with running(env, cwd=tmp_path) as run:
        run.wait_until_ready()
        due = app.one("select clock_timestamp() + make_interval(secs => %s)", _DUE_S)
        [upload] = app.queue_uploads(next_retry_at=due)
        timed = app.begin_run(timeout_at=due)
        [now] = app.queue_uploads()
        beating = app.begin_run(timeout_at="2100-01-01", heartbeat_timeout="4 s")
        silent = app.begin_run(heartbeat_timeout=f"{_DUE_S} s")
        silent_due = app.run(silent)["heartbeat_at"] + app.run(silent)["heartbeat_timeout"]

        while app.row(now) is not None:
            assert app.one("select clock_timestamp()") < due, "the upload that is due now was not stored in time"
        while app.one("select clock_timestamp()") < due:
            early = app.row(upload) is None or app.run(timed)["status"] != "running"
            assert not early or app.one("select clock_timestamp()") >= due
            app.conn.execute("update public.interpretation_runs set heartbeat_at = now() where id = %s", (beating,))
        while app.row(upload) is not None or {app.run(r)["status"] for r in (timed, silent)} != {"failed"}:
            late_s = app.one("select extract(epoch from clock_timestamp() - %s)::float8", max(due, silent_due))
            assert late_s < _LATE_S, run.log
        assert app.run(beating)["status"] == "running"
        for run_id, since in ((timed, due), (silent, silent_due)):
            completed = app.run(run_id)["completed_at"]
            assert 0 <= (completed - since).total_seconds() < _LATE_S
        run.terminate()
        assert run.ended() == 0
    app.assert_stored(upload)
