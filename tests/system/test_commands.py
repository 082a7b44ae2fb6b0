"""The commands as processes: output, effects and exit codes."""

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from support.app import App
from support.process import environment, reactor, settings_of

UNKNOWN = str(uuid4())


def call(app: App, *arguments: str, code: int = 0) -> str:
    """Run a command, assert its exit code, and return its stdout."""
    done = reactor(*arguments, env=settings_of(app), cwd=app.spool.parent)
    assert done.returncode == code, done.stderr
    return done.stdout


def error_output(app: App, *arguments: str, code: int) -> str:
    """Run a command, assert its exit code, and return its stderr."""
    done = reactor(*arguments, env=settings_of(app), cwd=app.spool.parent)
    assert done.returncode == code, done.stderr
    return done.stderr


def call_json(app: App, *arguments: str) -> Any:
    """Run a command with --json and return its parsed output."""
    return json.loads(call(app, *arguments, "--json"))


# reactor, reactor migrate, reactor status


def test_version_prints_the_version(tmp_path: Path) -> None:
    done = reactor("--version", env=environment(), cwd=tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(r"reactor, version \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("wrong", [["fly"], ["run", "--fast"], ["uploads"], ["uploads", "retry"], ["runs", "x"]])
def test_wrong_use_exits_2_and_prints_the_usage(tmp_path: Path, wrong: list[str]) -> None:
    done = reactor(*wrong, env=environment(), cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: reactor" in done.stderr


def test_without_a_database_or_a_data_folder_it_names_both_fixes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = reactor("run", env=environment(DATA_DIR=str(tmp_path / "file" / "data")), cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"cannot create {tmp_path / 'file'}" in line
    assert "set REACTOR_DATABASE_URL" in line
    assert "point REACTOR_DATA_DIR at a folder" in line


@pytest.mark.parametrize(
    ("variable", "value", "config"),
    [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/missing", ""),
        ("AWS_CONFIG_FILE", "config", "[default]\ncredential_process = /missing\n"),
        ("AWS_CONFIG_FILE", "config", "no configuration"),
        ("AWS_ACCESS_KEY_ID", "key\n", ""),
        ("AWS_PROFILE", "missing", ""),
        ("AWS_DEFAULTS_MODE", "fast", ""),
    ],
)
def test_a_fault_of_the_stores_credentials_is_one_line_and_exit_2(
    migrated_url: str, tmp_path: Path, variable: str, value: str, config: str
) -> None:
    (tmp_path / "config").write_text(config)
    (tmp_path / "spool").mkdir()
    env = environment(DATABASE_URL=migrated_url, STORE_URL="s3://", SPOOL_DIR=str(tmp_path / "spool"))
    env |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/x",
    }
    env |= {"AWS_SECRET_ACCESS_KEY": "secret", "AWS_ACCESS_KEY_ID": "key"} if variable[4:6] in {"AC", "DE"} else {}
    done = reactor("run", env=env | {variable: value}, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert variable in line
    assert "Traceback" not in line


def test_a_second_migrate_does_nothing(database_url: str, tmp_path: Path) -> None:
    env = environment(DATABASE_URL=database_url)
    before = reactor("migrate", "--status", env=env, cwd=tmp_path)
    assert before.returncode == 1
    assert "pending\tmigrations/0001" in before.stdout

    first = reactor("migrate", env=env, cwd=tmp_path)
    assert (first.returncode, first.stdout) == (0, "")
    assert re.search(r"\d+ files applied", first.stderr)
    second = reactor("migrate", "--json", env=env, cwd=tmp_path)
    assert (second.returncode, json.loads(second.stdout)) == (0, {"applied": []})

    after = reactor("migrate", "--status", "--json", env=env, cwd=tmp_path)
    assert after.returncode == 0
    assert {step["state"] for step in json.loads(after.stdout)} == {"applied"}


def test_migrate_print_prints_the_schema_and_does_not_connect(database_url: str, tmp_path: Path) -> None:
    done = reactor("migrate", "--print", env=environment(DATABASE_URL="postgresql://127.0.0.1:1/x"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "create table public.upload_queue" in done.stdout
    assert done.stdout.count("create or replace function reactor.claim_uploads") == 1
    with psycopg.connect(database_url) as conn:
        assert conn.execute("select to_regclass('public.upload_queue')").fetchone() == (None,)


def test_status_counts_uploads_runs_and_reactors(app: App) -> None:
    app.queue_uploads(3, next_retry_at="2100-01-01")
    app.queue_uploads(2)
    app.queue_uploads(status="dead")
    app.begin_run(timeout_at="2000-01-01")
    status = call_json(app, "status")
    assert (status["uploads"]["failed"], status["uploads"]["due"], status["uploads"]["dead"]) == (5, 2, 1)
    assert (status["runs"]["running"], status["runs"]["stale"]) == (1, 1)
    assert status["reactors"] == []
    text = call(app, "status")
    assert re.search(r"uploads waiting\s+5", text)
    assert "none is running" in text


# reactor reconcile


def test_reconcile_handles_everything_without_notifications_or_a_reactor(app: App) -> None:
    app.disable_triggers()
    uploads = app.queue_uploads(300)
    stale, alive = app.begin_run(timeout_at="2000-01-01"), app.begin_run(timeout_at="2100-01-01")

    due = call_json(app, "reconcile", "--dry-run")
    assert due == {
        "uploads_due": 300,
        "leases_expired": 0,
        "uploads_exhausted": 0,
        "runs_stale": 1,
        "reservations_leaked": 0,
    }
    assert app.one("select count(*) from public.upload_queue where status = 'failed'") == 300
    assert app.run(stale)["status"] == "running"

    done = call_json(app, "reconcile")
    other_counts = {"retry": 0, "dead": 0, "deferred": 0, "rescued": 0, "reservations_released": 0}
    assert done == {"stored": 300, "runs_failed": 1} | other_counts
    for upload in uploads:
        app.assert_stored(upload)
    assert (app.run(stale)["status"], app.run(alive)["status"]) == ("failed", "running")
    app.assert_usage_matches_rows()
    assert call(app, "reconcile").startswith("stored 0, retry 0, dead 0")


def test_reconcile_tries_each_upload_once_and_counts_the_outcomes(app: App) -> None:
    [missing] = app.queue_uploads(spooled=False)
    [abandoned] = app.queue_uploads(
        status="uploading", retry_count=1, lease_token=uuid4(), lease_expires_at="2000-01-01"
    )
    assert call_json(app, "reconcile") | {"deferred": 0} == {
        "stored": 1,
        "retry": 0,
        "dead": 1,
        "deferred": 0,
        "rescued": 1,
        "runs_failed": 0,
        "reservations_released": 0,
    }
    app.assert_stored(abandoned)
    row = app.row(missing)
    assert row is not None
    assert row["error_code"] == "SPOOL_FILE_MISSING"


# reactor uploads


def test_uploads_are_listed(app: App) -> None:
    assert call(app, "uploads", "list") == ""
    assert call_json(app, "uploads", "list") == []
    [waiting], [dead] = app.queue_uploads(), app.queue_uploads(status="dead", error_code="CONTENT_MISMATCH")
    header, *lines = call(app, "uploads", "list").splitlines()
    assert header.split("\t")[:2] == ["id", "status"]
    assert {line.split("\t")[0] for line in lines} == {str(waiting.id), str(dead.id)}
    [only] = call_json(app, "uploads", "list", "--status", "dead")
    assert (only["id"], only["error_code"]) == (str(dead.id), "CONTENT_MISMATCH")
    [theirs] = call_json(app, "uploads", "list", "--user", str(waiting.user))
    assert theirs["id"] == str(waiting.id)
    assert len(call_json(app, "uploads", "list", "--limit", "1")) == 1


def test_uploads_show_prints_state_errors_and_trace(app: App) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    [upload] = app.queue_uploads(spooled=False, traceparent=f"00-{trace}-0123456789abcdef-01")
    call(app, "reconcile")
    shown = call_json(app, "uploads", "show", str(upload.id))
    assert (shown["status"], shown["trace_id"]) == ("dead", trace)
    assert [error["code"] for error in shown["errors"]] == ["SPOOL_FILE_MISSING"]
    text = call(app, "uploads", "show", str(upload.id))
    assert re.search(r"trace_id\s+" + trace, text)
    assert "attempt 1 at " in text


def test_uploads_retry_queues_a_dead_upload_again(app: App) -> None:
    [upload] = app.queue_uploads(spooled=False)
    call(app, "reconcile")
    assert app.usage(upload) == (0, 0)
    (app.spool / upload.key).write_bytes(upload.content)
    assert call(app, "uploads", "retry", str(upload.id)) == f"{upload.id} is due\n"
    assert app.usage(upload) == (0, len(upload.content))
    call(app, "reconcile")
    app.assert_stored(upload)
    app.assert_usage_matches_rows()


def test_an_upload_must_be_cancelled_before_it_is_purged(app: App) -> None:
    [upload] = app.queue_uploads()
    upload_id = str(upload.id)
    assert "cancel it first" in error_output(app, "uploads", "purge", upload_id, code=1)
    assert call(app, "uploads", "cancel", upload_id) == f"{upload_id} cancelled\n"
    assert app.usage(upload) == (0, 0)
    assert app.is_spooled(upload)
    assert "is not waiting" in error_output(app, "uploads", "cancel", upload_id, code=1)
    assert call(app, "uploads", "purge", upload_id) == f"{upload_id} purged\n"
    assert app.row(upload) is None
    assert not app.is_spooled(upload)


@pytest.mark.parametrize("path", ["../precious", "/etc/hostname"])
def test_purge_deletes_no_file_outside_the_spool(app: App, path: str) -> None:
    outside = app.spool.parent / "precious"
    outside.write_bytes(b"precious")
    [upload] = app.queue_uploads(status="dead", temp_file_path=path)
    assert "its spooled file stays" in error_output(app, "uploads", "purge", str(upload.id), code=0)
    assert app.row(upload) is None
    assert outside.read_bytes() == b"precious"


def test_known_ids_are_changed_and_unknown_ones_are_named(app: App) -> None:
    [upload] = app.queue_uploads(status="dead")
    done = reactor("uploads", "retry", str(upload.id), UNKNOWN, env=settings_of(app), cwd=app.spool.parent)
    assert done.returncode == 1
    assert done.stdout == f"{upload.id} is due\n"
    assert UNKNOWN in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("uploads", "show"),
        ("uploads", "retry"),
        ("uploads", "cancel"),
        ("uploads", "purge"),
        ("runs", "show"),
        ("runs", "fail"),
    ],
)
def test_an_unknown_id_is_one_clear_line(app: App, command: tuple[str, ...]) -> None:
    [line] = error_output(app, *command, UNKNOWN, code=1).splitlines()
    assert UNKNOWN in line


@pytest.mark.parametrize("command", [("uploads", "purge"), ("runs", "show")])
def test_an_invalid_id_is_wrong_use(app: App, command: tuple[str, ...]) -> None:
    assert "not a valid UUID" in error_output(app, *command, "not-a-uuid", code=2)


@pytest.mark.parametrize("command", [("status",), ("uploads", "list"), ("runs", "list")])
def test_a_database_that_is_not_migrated_is_one_clear_line(
    database_url: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = reactor(*command, env=environment(DATABASE_URL=database_url), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "reactor migrate" in line


# reactor runs


def test_runs_are_listed_shown_and_failed(app: App) -> None:
    run, other = app.begin_run(timeout_at="2100-01-01"), app.begin_run(timeout_at="2100-01-01")
    assert {row["id"] for row in call_json(app, "runs", "list", "--status", "running")} == {str(run), str(other)}
    assert call_json(app, "runs", "list", "--status", "failed") == []
    assert str(run) in call(app, "runs", "list")

    assert call(app, "runs", "fail", str(run), "--message", "by hand") == f"{run} failed\n"
    shown = call_json(app, "runs", "show", str(run))
    assert (shown["status"], shown["error_message"]) == ("failed", "by hand")
    assert re.search(r"status\s+failed", call(app, "runs", "show", str(run)))
    assert "is not pending or running" in error_output(app, "runs", "fail", str(run), code=1)
    assert app.run(other)["status"] == "running"


# reactor demo


def test_the_demo_ends_and_verifies_its_result(tmp_path: Path) -> None:
    done = reactor("demo", env=environment(), cwd=tmp_path, within_s=45.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified: every stored object has the bytes of its file" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "[bold]" not in done.stdout
    assert done.stdout.count("\n") > 50
    assert list(tmp_path.iterdir()) == []
