"""The commands as their users meet them: what they print, what they change, and what they exit with."""

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
    """Run a command that must exit with this code; return what it printed."""
    done = reactor(*arguments, env=settings_of(app), cwd=app.spool.parent)
    assert done.returncode == code, done.stderr
    return done.stdout


def complaint(app: App, *arguments: str, code: int) -> str:
    """Run a command that must fail with this code; return its words."""
    done = reactor(*arguments, env=settings_of(app), cwd=app.spool.parent)
    assert done.returncode == code, done.stderr
    return done.stderr


def answer(app: App, *arguments: str) -> Any:
    return json.loads(call(app, *arguments, "--json"))


# reactor, reactor migrate, reactor status


def test_it_says_its_version(tmp_path: Path) -> None:
    done = reactor("--version", env=environment(), cwd=tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(r"reactor, version \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("wrong", [["fly"], ["run", "--fast"], ["uploads"], ["uploads", "retry"], ["runs", "x"]])
def test_wrong_use_exits_2_and_says_how(tmp_path: Path, wrong: list[str]) -> None:
    done = reactor(*wrong, env=environment(), cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage: reactor" in done.stderr


def test_without_a_database_or_a_place_for_one_it_names_both_ways_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = reactor("run", env=environment(DATA_DIR=str(tmp_path / "file" / "data")), cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"can't make {tmp_path / 'file'}" in line
    assert "set REACTOR_DATABASE_URL" in line
    assert "point REACTOR_DATA_DIR at a folder" in line


def test_migrating_twice_is_migrating_once(database_url: str, tmp_path: Path) -> None:
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


def test_what_migrate_prints_is_the_schema(database_url: str, tmp_path: Path) -> None:
    done = reactor("migrate", "--print", env=environment(DATABASE_URL="postgresql://127.0.0.1:1/x"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "create table public.upload_queue" in done.stdout
    assert done.stdout.count("create or replace function reactor.claim_uploads") == 1
    with psycopg.connect(database_url) as conn:
        assert conn.execute("select to_regclass('public.upload_queue')").fetchone() == (None,)


def test_status_shows_what_waits(app: App) -> None:
    app.queue_uploads(3, next_retry_at="2100-01-01")
    app.queue_uploads(2)
    app.queue_uploads(status="dead")
    app.begin_run(timeout_at="2000-01-01")
    seen = answer(app, "status")
    assert (seen["uploads"]["failed"], seen["uploads"]["due"], seen["uploads"]["dead"]) == (5, 2, 1)
    assert (seen["runs"]["running"], seen["runs"]["stale"]) == (1, 1)
    assert seen["reactors"] == []
    text = call(app, "status")
    assert re.search(r"uploads waiting\s+5", text)
    assert "none has left a sign of life" in text


# reactor reconcile


def test_reconcile_alone_drains_what_nobody_told_of(app: App) -> None:
    app.disable_triggers()
    uploads = app.queue_uploads(300)
    stale, alive = app.begin_run(timeout_at="2000-01-01"), app.begin_run(timeout_at="2100-01-01")

    due = answer(app, "reconcile", "--dry-run")
    assert due == {
        "uploads_due": 300,
        "leases_expired": 0,
        "uploads_exhausted": 0,
        "runs_stale": 1,
        "reservations_leaked": 0,
    }
    assert app.one("select count(*) from public.upload_queue where status = 'failed'") == 300
    assert app.run(stale)["status"] == "running"

    done = answer(app, "reconcile")
    nothing_else = {"retry": 0, "dead": 0, "deferred": 0, "rescued": 0, "reservations_released": 0}
    assert done == {"stored": 300, "runs_failed": 1} | nothing_else
    for upload in uploads:
        app.assert_stored(upload)
    assert (app.run(stale)["status"], app.run(alive)["status"]) == ("failed", "running")
    app.assert_usage_matches_rows()
    assert call(app, "reconcile").startswith("stored 0, retry 0, dead 0")


def test_reconcile_tries_each_once_and_counts_what_came_of_it(app: App) -> None:
    [missing] = app.queue_uploads(spooled=False)
    [abandoned] = app.queue_uploads(
        status="uploading", retry_count=1, lease_token=uuid4(), lease_expires_at="2000-01-01"
    )
    assert answer(app, "reconcile") | {"deferred": 0} == {
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
    assert answer(app, "uploads", "list") == []
    [waiting], [dead] = app.queue_uploads(), app.queue_uploads(status="dead", error_code="CONTENT_MISMATCH")
    header, *lines = call(app, "uploads", "list").splitlines()
    assert header.split("\t")[:2] == ["id", "status"]
    assert {line.split("\t")[0] for line in lines} == {str(waiting.id), str(dead.id)}
    [only] = answer(app, "uploads", "list", "--status", "dead")
    assert (only["id"], only["error_code"]) == (str(dead.id), "CONTENT_MISMATCH")
    [theirs] = answer(app, "uploads", "list", "--user", str(waiting.user))
    assert theirs["id"] == str(waiting.id)
    assert len(answer(app, "uploads", "list", "--limit", "1")) == 1


def test_an_uploads_life_is_shown(app: App) -> None:
    trace = "0123456789abcdef0123456789abcdef"
    [upload] = app.queue_uploads(spooled=False, traceparent=f"00-{trace}-0123456789abcdef-01")
    call(app, "reconcile")
    shown = answer(app, "uploads", "show", str(upload.id))
    assert (shown["status"], shown["trace_id"]) == ("dead", trace)
    assert [error["code"] for error in shown["errors"]] == ["SPOOL_FILE_MISSING"]
    text = call(app, "uploads", "show", str(upload.id))
    assert re.search(r"trace_id\s+" + trace, text)
    assert "attempt 1 at " in text


def test_a_dead_upload_is_retried(app: App) -> None:
    [upload] = app.queue_uploads(spooled=False)
    call(app, "reconcile")
    assert app.usage(upload) == (0, 0)
    (app.spool / upload.key).write_bytes(upload.content)
    assert call(app, "uploads", "retry", str(upload.id)) == f"{upload.id} is due\n"
    assert app.usage(upload) == (0, len(upload.content))
    call(app, "reconcile")
    app.assert_stored(upload)
    app.assert_usage_matches_rows()


def test_an_upload_is_cancelled_and_then_purged(app: App) -> None:
    [upload] = app.queue_uploads()
    ident = str(upload.id)
    assert "cancel it first" in complaint(app, "uploads", "purge", ident, code=1)
    assert call(app, "uploads", "cancel", ident) == f"{ident} cancelled\n"
    assert app.usage(upload) == (0, 0)
    assert app.is_spooled(upload)
    assert "is not waiting" in complaint(app, "uploads", "cancel", ident, code=1)
    assert call(app, "uploads", "purge", ident) == f"{ident} purged\n"
    assert app.row(upload) is None
    assert not app.is_spooled(upload)


@pytest.mark.parametrize("path", ["../precious", "/etc/hostname"])
def test_purging_touches_nothing_outside_the_spool(app: App, path: str) -> None:
    precious = app.spool.parent / "precious"
    precious.write_bytes(b"precious")
    [upload] = app.queue_uploads(status="dead", temp_file_path=path)
    assert "its spooled file stays" in complaint(app, "uploads", "purge", str(upload.id), code=0)
    assert app.row(upload) is None
    assert precious.read_bytes() == b"precious"


def test_some_good_ids_are_done_and_the_others_named(app: App) -> None:
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
    [line] = complaint(app, *command, UNKNOWN, code=1).splitlines()
    assert UNKNOWN in line


@pytest.mark.parametrize("command", [("uploads", "purge"), ("runs", "show")])
def test_what_is_no_id_is_wrong_use(app: App, command: tuple[str, ...]) -> None:
    assert "not a valid UUID" in complaint(app, *command, "not-a-uuid", code=2)


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
    assert {row["id"] for row in answer(app, "runs", "list", "--status", "running")} == {str(run), str(other)}
    assert answer(app, "runs", "list", "--status", "failed") == []
    assert str(run) in call(app, "runs", "list")

    assert call(app, "runs", "fail", str(run), "--message", "by hand") == f"{run} failed\n"
    shown = answer(app, "runs", "show", str(run))
    assert (shown["status"], shown["error_message"]) == ("failed", "by hand")
    assert re.search(r"status\s+failed", call(app, "runs", "show", str(run)))
    assert "is not pending or running" in complaint(app, "runs", "fail", str(run), code=1)
    assert app.run(other)["status"] == "running"


# reactor demo


def test_the_demo_ends_by_itself_and_balances_its_books(tmp_path: Path) -> None:
    done = reactor("demo", env=environment(), cwd=tmp_path, within_s=45.0)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The books balance" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "[bold]" not in done.stdout
    assert done.stdout.count("\n") > 50
    assert list(tmp_path.iterdir()) == []
