"""`reactor run` as a process: readiness, reaction, shutdown, takeover after a kill, and configuration errors."""

import os
import signal
import socket
import time
from pathlib import Path

from support.app import App, QueuedUpload, open_app
from support.process import environment, reactor, running, settings_of

_PATIENCE_S = 30.0


def wait_until_stored(app: App, *uploads: QueuedUpload) -> None:
    """Wait until the uploads have left the queue."""
    ids = [upload.id for upload in uploads]
    wait_until_none(app, "id = any(%s)", ids)


def wait_until_none(app: App, condition: str, *parameters: object) -> None:
    """Wait until no queued upload meets the SQL condition."""
    give_up = time.monotonic() + _PATIENCE_S
    statement = f"select count(*) from public.upload_queue where {condition}".encode()
    while app.conn.execute(statement, parameters).fetchall() != [{"count": 0}]:
        assert time.monotonic() < give_up, app.all("select * from public.upload_queue")
        time.sleep(0.02)


def wait_until_spool_is_empty(app: App) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while list(app.spool.iterdir()):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def wait_until_no_session_waits_for_a_lock(app: App) -> None:
    """Wait until the server has noticed that a process ended, and has cancelled the process's blocked statement."""
    give_up = time.monotonic() + _PATIENCE_S
    blocked = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while app.conn.execute(blocked).fetchall():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_it_becomes_ready_stores_an_upload_reports_it_and_stops(app: App, tmp_path: Path) -> None:
    with running(settings_of(app), cwd=tmp_path) as run:
        run.wait_until_ready()
        assert run.get("/healthz")[0] == 200
        assert run.get_json("/readyz") == {"ready": True, "reasons": []}

        [upload] = app.queue_uploads()
        wait_until_stored(app, upload)
        status, metrics = run.get("/metrics")
        assert status == 200
        assert 'storage_upload_attempts_total{error_code="",outcome="stored"} 1.0' in metrics
        assert "reactor_listener_up 1.0" in metrics
        assert str(upload.id) not in metrics
        assert str(upload.user) not in metrics

        answer = run.get_json("/api/status")
        assert answer["uploads"]["failed"] == 0
        assert [instance["mode"] for instance in answer["reactors"]] == ["listening"]

        run.terminate()
        assert run.ended() == 0
        assert app.url not in run.log
    app.assert_stored(upload)
    assert app.one("select count(*) from reactor.instance") == 0


def test_sigint_stops_it_like_sigterm(app: App, tmp_path: Path) -> None:
    with running(settings_of(app), cwd=tmp_path) as run:
        run.wait_until_ready()
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == 0


def queue_large_uploads(app: App) -> list[QueuedUpload]:
    """Queue more bytes than can be stored at once, so that some uploads are always in flight."""
    return app.queue_uploads(120, content=os.urandom(4_000_000))


def test_a_shutdown_releases_the_uploads_in_flight_without_counting_the_attempt(app: App, tmp_path: Path) -> None:
    with running(settings_of(app, SHUTDOWN_GRACE="0.2s", LEASE="60s"), cwd=tmp_path) as run:
        run.wait_until_ready()
        uploads = queue_large_uploads(app)
        wait_until_an_upload_is_leased(app)
        started_at = time.monotonic()
        run.terminate()
        assert run.ended() == 0
        assert time.monotonic() - started_at < 10.0
    remaining = app.all("select * from public.upload_queue")
    assert remaining
    for row in remaining:
        assert (row["status"], row["retry_count"], row["lease_token"]) == ("failed", 0, None)
    ids = {row["id"] for row in remaining}
    for upload in uploads:
        if upload.id not in ids:
            app.assert_stored(upload)
    app.assert_usage_matches_rows()


def wait_until_an_upload_is_leased(app: App) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while not app.one("select count(*) from public.upload_queue where status = 'uploading'"):
        assert time.monotonic() < give_up


def test_a_second_sigterm_exits_at_once_and_another_reactor_takes_over(app: App, tmp_path: Path) -> None:
    """An open transaction blocks the settlement, so that the first signal alone does not end the process."""
    with (
        running(settings_of(app, SHUTDOWN_GRACE="50s"), cwd=tmp_path) as run,
        open_app(app.url, tmp_path) as other_session,
    ):
        run.wait_until_ready()
        [upload] = app.queue_uploads(next_retry_at="2100-01-01")
        with other_session.conn.transaction():
            other_session.conn.execute("select from public.storage_usage for update")
            app.conn.execute("update public.upload_queue set next_retry_at = now()")
            wait_until_an_upload_is_leased(app)
            run.terminate()
            run.wait_for_line("finishing what is in flight")
            run.terminate()
            assert run.ended() == 1
            assert "exiting now" in run.log
            # otherwise the ended reactor's settlement could still commit, and nothing would remove the spooled file
            wait_until_no_session_waits_for_a_lock(app)
    with running(settings_of(app), cwd=tmp_path) as other:
        wait_until_stored(app, upload)
        wait_until_spool_is_empty(app)
        other.terminate()
        assert other.ended() == 0
    app.assert_stored(upload)
    app.assert_usage_matches_rows()


def test_another_reactor_takes_over_the_uploads_of_a_killed_one(app: App, tmp_path: Path) -> None:
    with running(settings_of(app), cwd=tmp_path) as run, running(settings_of(app), cwd=tmp_path) as other:
        run.wait_until_ready()
        other.wait_until_ready()
        uploads = app.queue_uploads(300, content=os.urandom(200_000))
        wait_until_an_upload_is_leased(app)
        run.kill()
        wait_until_stored(app, *uploads)
        wait_until_none(app, "true")
        other.terminate()
        assert other.ended() == 0
    for upload in uploads:
        assert app.stored_path(upload).read_bytes() == upload.content
        assert app.source(upload)["storage_status"] == "uploaded"
    app.assert_usage_matches_rows()


# configuration errors


def test_an_unknown_database_host_is_one_clear_line(app: App, tmp_path: Path) -> None:
    env = settings_of(app, DATABASE_URL="postgresql://reactor:s3cret@no-such-host.invalid/x")
    assert_refused(env, tmp_path, 1, "DATABASE_UNAVAILABLE", "no-such-host.invalid")


def test_an_unreachable_port_is_one_clear_line(app: App, tmp_path: Path) -> None:
    env = settings_of(app, DATABASE_URL=f"postgresql://reactor:s3cret@127.0.0.1:{a_closed_port()}/x")
    assert_refused(env, tmp_path, 1, "DATABASE_UNAVAILABLE", "refused")


def test_a_database_that_is_not_migrated_is_one_clear_line(app: App, database_url: str, tmp_path: Path) -> None:
    env = settings_of(app, DATABASE_URL=database_url)
    assert_refused(env, tmp_path, 1, "DATABASE_FORBIDDEN", "reactor migrate")


def test_a_missing_spool_is_one_clear_line(app: App, tmp_path: Path) -> None:
    env = settings_of(app, SPOOL_DIR=str(tmp_path / "nowhere"))
    assert_refused(env, tmp_path, 2, "REACTOR_SPOOL_DIR", "nowhere")


def test_a_store_that_cannot_be_written_is_one_clear_line(app: App, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    env = settings_of(app, STORE_URL=(tmp_path / "file" / "store").as_uri())
    assert_refused(env, tmp_path, 2, "REACTOR_STORE_URL")


def test_a_port_that_is_taken_is_one_clear_line(app: App, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(settings_of(app, HTTP_PORT=str(port)), tmp_path, 2, "REACTOR_HTTP_PORT", str(port))
    assert app.one("select count(*) from reactor.instance") == 0


def test_all_invalid_settings_are_reported_together(app: App, tmp_path: Path) -> None:
    env = settings_of(app, LEASE="soon", UPLOAD_CONCURRENCY="many", STORE_URL="ftp://x", HTTP_PORT="99999")
    done = reactor("run", env=env, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    for name in ("LEASE", "UPLOAD_CONCURRENCY", "STORE_URL", "HTTP_PORT"):
        assert any(f"REACTOR_{name}" in line for line in lines)


def assert_refused(env: dict[str, str], cwd: Path, code: int, *texts: str) -> None:
    """Assert that `run` and `reconcile` end with this exit code and with one line that contains all `texts`."""
    for command in ("run", "reconcile"):
        if command == "reconcile" and "REACTOR_HTTP_PORT" in texts:
            continue  # `reconcile` opens no port
        done = reactor(command, env=env, cwd=cwd, within_s=30.0)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        [line] = done.stderr.splitlines()
        for text in texts:
            assert text in line
        assert "s3cret" not in line


def a_closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_without_a_database_it_starts_an_embedded_one(tmp_path: Path, reachable_folder: Path) -> None:
    env = environment(DATA_DIR=str(reachable_folder / "data"), HTTP_PORT="0")
    with running(env, cwd=tmp_path) as run:
        run.wait_until_ready()
        assert "no database configured" in run.log
        assert reactor("status", env=env, cwd=tmp_path).returncode == 0
        run.terminate()
        assert run.ended() == 0
    done = reactor("status", env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert "REACTOR_DATABASE_URL" in done.stderr
