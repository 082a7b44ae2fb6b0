"""Marked secrets never appear in a log line, a metric, an HTTP answer, a span or an error, whatever fails."""

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from support import aws
from support.app import App, QueuedUpload
from support.process import Running, environment, reactor, running, settings_of
from support.servers.fault_server import FaultServer, Request, answers, hangs, resets, stores
from support.servers.otlp_receiver import Receiver

_PATIENCE_S = 30.0

PASSWORD, ACCESS_SECRET, HTTP_TOKEN = "markedPASSWORD", "markedAWSSECRET", "markedHTTPTOKENLONG"
OTLP_HEADER, OTLP_USER, CONTENT, FILE = "markedOTLPHEADER", "markedOTLPUSER", "markedCONTENT", "markedFILE"
MARKED = re.compile("marked[A-Z]+")


@pytest.fixture
def worker_url(app: App) -> Iterator[str]:
    """URL of a new worker role with a marked password."""
    role = f"marked_{secrets.token_hex(6)}"
    name, password = sql.Identifier(role), sql.Literal(PASSWORD)
    app.conn.execute(sql.SQL("create role {} login password {} in role reactor_worker").format(name, password))
    parts = urlsplit(app.url)
    yield parts._replace(netloc=f"{role}:{PASSWORD}@{parts.hostname}:{parts.port}").geturl()
    app.conn.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = %s", (role,))
    app.conn.execute(sql.SQL("drop role {}").format(name))


@pytest.fixture
def store() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


def marked_settings(app: App, url: str, store: FaultServer, collector: Receiver, style: str) -> dict[str, str]:
    return (
        settings_of(
            app,
            DATABASE_URL=url,
            STORE_URL="s3://",
            HTTP_TOKEN=HTTP_TOKEN,
            LOG_LEVEL="TRACE",
            LOG_FORMAT=style,
            ATTEMPT_TIMEOUT="1s",
            RECONCILE_INTERVAL="1s",
        )
        | aws.environment(store.endpoint, access_key="key", secret_key=ACCESS_SECRET)
        | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint.replace("//", f"//{OTLP_USER}:{OTLP_USER}@"),
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={OTLP_HEADER}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
    )


def queue_marked(app: App, fault: str, **columns: Any) -> QueuedUpload:
    """Queue an upload with marked content and file name; the object's key selects the store's fault."""
    path = f"{FILE}-{secrets.token_hex(4)}"
    content = CONTENT.encode() * 100
    if fault != "missing":
        (app.spool / path).write_bytes(content if fault != "changed" else b"x" + content[1:])
    if fault == "link":
        (app.spool / path).rename(app.spool.parent / path)
        (app.spool / path).symlink_to(app.spool.parent / path)
    if fault == "folder":
        (app.spool / path).unlink()
        (app.spool / path).mkdir()
    [upload] = app.queue_uploads(
        content=content,
        spooled=False,
        max_retries=2,
        object_path=f"{fault}/{secrets.token_hex(4)}",
        **{"temp_file_path": path, **columns},
    )
    return upload


def answer_by_key(request: Request) -> None:
    """Answer with the fault that the object's key selects."""
    fault = {
        "denied": answers(403, "AccessDenied"),
        "broken": answers(500, "InternalError"),
        "busy": answers(503, "SlowDown"),
        "silent": hangs,
        "reset": resets,
    }.get(request.path.split("/")[2] if request.path.count("/") > 1 else "", stores)
    fault(request)


FAULTS = ("denied", "broken", "silent", "reset", "missing", "changed", "link", "folder", "fine")


def wait_until_settled(app: App, uploads: list[QueuedUpload]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    ids = [upload.id for upload in uploads]
    query = "select count(*) from public.upload_queue where id = any(%s) and status <> 'dead'"
    while app.one(query, ids):
        assert time.monotonic() < deadline, app.all("select * from public.upload_queue where status <> 'dead'")
        time.sleep(0.02)


def assert_no_secret(app: App, run: Running, collector: Receiver, *more: str) -> None:
    outputs = [run.log, *more, *(body.decode(errors="replace") for body in collector.bodies)]
    outputs += [str(row) for row in app.all("select errors, error_message from public.upload_queue")]
    for output in outputs:
        assert not MARKED.findall(output), output
        assert str(app.spool) not in output


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_failure_reveals_a_secret(
    app: App, worker_url: str, store: FaultServer, collector: Receiver, style: str
) -> None:
    store.fault = answer_by_key
    env = marked_settings(app, worker_url, store, collector, style)
    with running(env, cwd=app.spool.parent) as run:
        run.wait_until_ready()
        uploads = [queue_marked(app, fault) for fault in FAULTS]
        escaping = [queue_marked(app, "fine", temp_file_path=f"../{FILE}"), queue_marked(app, "fine", spool=FILE)]
        for payload in ("garbage " + FILE, json.dumps({"v": 1, "rows": [[FILE]]}), "\x1b[31m", "9" * 7000):
            app.conn.execute("select pg_notify('reactor_uploads', %s)", (payload,))
        collector.answer = lambda: 503
        wait_until_settled(app, uploads + escaping)
        collector.answer = lambda: 200
        collector.wait(lambda spans: sum(span.name == "upload" for span in spans) >= len(uploads + escaping))
        app.conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor'")
        reconnected = [queue_marked(app, "fine")]
        wait_until_settled(app, reconnected)
        answers_over_http = [
            run.get(path)[1] for path in ("/metrics", "/api/status", "/readyz", "/healthz", "/nothing")
        ]
        run.terminate()
        assert run.ended() == 0
    assert_no_secret(app, run, collector, *answers_over_http)
    codes = {row["error_code"] for row in app.all("select error_code from public.upload_queue")}
    assert codes >= {"SPOOL_FILE_MISSING", "CONTENT_MISMATCH", "SPOOL_PATH_FORBIDDEN", "STORAGE_REJECTED"}
    assert "ignored a notification" in run.log
    assert "doesn't accept spans" in run.log
    if style == "json":
        assert_log_lines_name_exported_spans(run, collector)


def assert_log_lines_name_exported_spans(run: Running, collector: Receiver) -> None:
    """Assert that each line is a JSON object, and that each line about an upload names an exported span."""
    lines = [json.loads(line) for line in run.log.splitlines()]
    exported = {(span.trace_id, span.span_id): span for span in collector.spans}
    upload_lines = [line for line in lines if "attempt" in line]
    assert len(upload_lines) > len(FAULTS)
    for line in upload_lines:
        span = exported[line["trace_id"], line["span_id"]]
        assert span.name == "upload.attempt"
        assert span.attributes["upload.id"] == line["upload_id"]
        assert span.attributes["upload.attempt"] == line["attempt"]
    assert {line["level"] for line in upload_lines} >= {"INFO", "WARNING", "ERROR"}


def test_a_connection_error_does_not_contain_the_password(app: App, worker_url: str, tmp_path: Path) -> None:
    parts = urlsplit(worker_url)
    with psycopg.connect(worker_url) as conn:
        checks_passwords = conn.pgconn.used_password
    urls = [
        parts._replace(netloc=f"{parts.username}:{PASSWORD}@127.0.0.1:1").geturl(),
        parts._replace(path="/nowhere").geturl(),
        parts._replace(netloc=f"{parts.username}:{PASSWORD}@no-such-host.invalid").geturl(),
        f"postgresql://user:{PASSWORD}@host:not-a-port/x",
        f"host=127.0.0.1 port=1 password={PASSWORD}",
        f"host=127.0.0.1 password={PASSWORD} nonsense={PASSWORD}",
    ]
    if checks_passwords:
        urls.append(worker_url.replace(PASSWORD, PASSWORD + "WRONG"))
    for url in urls:
        env = settings_of(app, DATABASE_URL=url, LOG_LEVEL="TRACE")
        done = reactor("run", env=env, cwd=tmp_path)  # the command with the most output
        assert done.returncode in (1, 2), url
        assert not MARKED.search(done.stdout + done.stderr), done.stderr
    for url in (urls[0], urls[-1], urls[3]):  # no server, refused, invalid URL
        done = reactor("status", env=settings_of(app, DATABASE_URL=url, LOG_LEVEL="TRACE"), cwd=tmp_path)
        assert done.returncode in (1, 2), url
        assert not MARKED.search(done.stdout + done.stderr), done.stderr


def test_an_invalid_setting_is_named_without_its_value(tmp_path: Path) -> None:
    env = environment(HTTP_TOKEN=f"{HTTP_TOKEN} x", LISTEN_URL=f"postgresql://u:{PASSWORD}@h:x/")
    env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{OTLP_USER}:{OTLP_USER}@host"}
    done = reactor("run", env=env, cwd=tmp_path)
    assert done.returncode == 2
    assert "REACTOR_HTTP_TOKEN" in done.stderr
    assert not MARKED.search(done.stdout + done.stderr)
    env = environment(DATABASE_URL="postgresql://127.0.0.1:1/x", STORE_URL="file:///" + str(tmp_path)) | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"{OTLP_USER}:{OTLP_USER}@host"
    }
    done = reactor("run", env=env | {"REACTOR_SPOOL_DIR": os.fspath(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in done.stderr
    assert not MARKED.search(done.stdout + done.stderr)
