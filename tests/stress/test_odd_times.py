"""Times that no calendar has, in any row an app may write: every command still answers, for this row and for others."""

import json
from pathlib import Path

from support.app import App
from support.process import reactor, settings_of

TIMES = ["-infinity", "infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00"]


def test_every_command_answers(app: App, tmp_path: Path) -> None:
    uploads = [app.queue_uploads(next_retry_at=at, created_at=at, updated_at=at)[0] for at in TIMES]
    runs = [
        app.begin_run(timeout_at=at, heartbeat_at=at, heartbeat_timeout="178000000 years", created_at=at)
        for at in TIMES
    ]
    env = settings_of(app)

    def told(*arguments: str) -> str:
        done = reactor(*arguments, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = {row["id"]: row["next_retry_at"] for row in json.loads(told("uploads", "list", "--json"))}
    assert set(listed) == {str(upload.id) for upload in uploads}
    assert {"infinity", "-infinity"} < set(listed.values())
    listed = {row["id"]: row["timeout_at"] for row in json.loads(told("runs", "list", "--json"))}
    assert set(listed) == {str(run) for run in runs}
    for upload, at in zip(uploads, TIMES, strict=True):
        assert at[:6] in told("uploads", "show", str(upload.id))
    for run, at in zip(runs, TIMES, strict=True):
        assert at[:6] in told("runs", "show", str(run))
    assert json.loads(told("status", "--json"))["uploads"]["due"] == 2
    told("status")
    told("reconcile", "--dry-run")
    told("reconcile", "--json")
    assert app.one("select count(*) from public.upload_queue") == 2
