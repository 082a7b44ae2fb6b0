"""Every command works on rows with the most extreme times that an app can write."""

import json
from pathlib import Path

from support.app import App
from support.process import reactor, settings_of

TIMES = ["-infinity", "infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00"]


def test_every_command_answers_with_extreme_times_in_the_rows(app: App, tmp_path: Path) -> None:
    uploads = [app.queue_uploads(next_retry_at=at, created_at=at, updated_at=at)[0] for at in TIMES]
    runs = [
        app.begin_run(timeout_at=at, heartbeat_at=at, heartbeat_timeout="178000000 years", created_at=at)
        for at in TIMES
    ]
    env = settings_of(app)

    def run_cli(*arguments: str) -> str:
        done = reactor(*arguments, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = {row["id"]: row["next_retry_at"] for row in json.loads(run_cli("uploads", "list", "--json"))}
    assert set(listed) == {str(upload.id) for upload in uploads}
    assert {"infinity", "-infinity"} < set(listed.values())
    listed = {row["id"]: row["timeout_at"] for row in json.loads(run_cli("runs", "list", "--json"))}
    assert set(listed) == {str(run) for run in runs}
    for upload, at in zip(uploads, TIMES, strict=True):
        assert at[:6] in run_cli("uploads", "show", str(upload.id))
    for run, at in zip(runs, TIMES, strict=True):
        assert at[:6] in run_cli("runs", "show", str(run))
    assert json.loads(run_cli("status", "--json"))["uploads"]["due"] == 2
    run_cli("status")
    run_cli("reconcile", "--dry-run")
    run_cli("reconcile", "--json")
    assert app.one("select count(*) from public.upload_queue") == 2
