"""A store, bucket or spool that refuses everybody costs no upload its retries, and all uploads are stored after it."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from anyio import to_thread
from support import aws
from support.app import BUCKET, App
from support.process import fetch
from support.recorder import Recorder
from support.servers.fault_server import Fault, FaultServer, Request, answers, stores

from reactor.app import Reactor
from reactor.core.events import AttemptSettled, BreakerMoved
from reactor.core.model import Verdict
from reactor.core.refusal import Guard

SECRET = "no-server-has-this-one"  # noqa: S105  # made up


class Credentials:
    """A shared credentials file, and a store that refuses requests signed with the key "old"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("old")

    def write(self, key: str) -> None:
        self.path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path / "credentials")


@pytest.fixture
def server(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer() as server:
        variables = aws.environment(server.endpoint, access_key="", secret_key="")
        variables = {name: value for name, value in variables.items() if "KEY" not in name}
        aws.use(variables | {"AWS_SHARED_CREDENTIALS_FILE": str(credentials.path)}, monkeypatch)
        yield server


def refusing_old_keys(refusal: Fault) -> Fault:
    def fault(request: Request) -> None:
        is_old = "Credential=old/" in request.headers.get("Authorization", "")
        (refusal if is_old and request.command == "PUT" else stores)(request)

    return fault


async def not_ready(reactor: Reactor) -> str:
    """Return the text of /readyz if it answers 503, else ""."""
    url = urlsplit(reactor.http_url)
    status, body = await to_thread.run_sync(fetch, f"{url.scheme}://{url.netloc}/readyz")
    return body if status == 503 else ""


def is_stored(settled: AttemptSettled) -> bool:
    return settled.verdict is Verdict.STORED


REFUSALS = {
    "ExpiredToken": (400, Guard.STORE),
    "InvalidAccessKeyId": (403, Guard.STORE),
    "SignatureDoesNotMatch": (403, Guard.STORE),
    "RequestTimeTooSkewed": (403, Guard.STORE),
    "AccessDenied": (403, Guard.BUCKET),
}


@pytest.mark.parametrize("code", REFUSALS)
async def test_credentials_that_the_store_refuses_spend_no_attempt_and_are_read_again(
    app: App, server: FaultServer, credentials: Credentials, recorder: Recorder, code: str
) -> None:
    status, guard = REFUSALS[code]
    users = [uuid4() for _ in range(20)]
    server.fault = refusing_old_keys(answers(status, code))
    async with app.running_reactor(recorder, store_url="s3://") as reactor:
        with app.conn.transaction():
            uploads = [app.queue_uploads(user=users[number % 20])[0] for number in range(60)]
        opened = await recorder.wait_for(BreakerMoved)
        assert opened.opened is not None
        assert (opened.place.kind, opened.opened.refusal.reason) == (guard, code)
        assert code in await not_ready(reactor)
        credentials.write("new")
        await recorder.wait_for_all(60, AttemptSettled, is_stored)
        assert not await not_ready(reactor)
    assert recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.DEAD) == []
    retried = recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.RETRY)
    assert len(retried) <= (0 if guard is Guard.STORE else 2)
    for upload in uploads:
        assert server.objects[f"/{BUCKET}/{upload.key}"] == upload.content
    app.assert_usage_matches_rows()


async def test_a_missing_bucket_holds_only_its_own_uploads(
    app: App, server: FaultServer, credentials: Credentials, recorder: Recorder
) -> None:
    credentials.write("new")
    missing = answers(404, "NoSuchBucket")
    server.fault = lambda request: missing(request) if request.path.startswith("/gone/") else stores(request)
    async with app.running_reactor(recorder, store_url="s3://") as reactor:
        held = app.queue_uploads(20, bucket="gone")
        opened = await recorder.wait_for(BreakerMoved)
        assert (opened.place.kind, opened.place.name) == (Guard.BUCKET, "gone")
        app.queue_uploads(20)
        await recorder.wait_for_all(20, AttemptSettled, is_stored)
        assert "NoSuchBucket" in await not_ready(reactor)
        assert {row["status"] for row in app.all("select status from public.upload_queue")} <= {"failed", "uploading"}
        server.fault = stores
        await recorder.wait_for_all(20, AttemptSettled, is_stored)
    assert all(server.objects[f"/gone/{upload.key}"] == upload.content for upload in held)
    assert not recorder.events_of(AttemptSettled, lambda settled: settled.trail.attempt > 1)


async def test_a_spool_that_is_gone_holds_only_its_own_uploads(app: App, recorder: Recorder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    user = uuid4()
    async with app.running_reactor(recorder, spools={**app.settings.spools, "b": other}) as reactor:
        gone = other.rename(tmp_path / "gone")
        for upload in (held := app.queue_uploads(60, user=user, spooled=False, spool="b")):
            (gone / upload.key).write_bytes(upload.content)
        opened = await recorder.wait_for(BreakerMoved)
        assert (opened.place.kind, opened.place.name) == (Guard.SPOOL, "b")
        uploads = app.queue_uploads(20)
        await recorder.wait_for_all(20, AttemptSettled, is_stored)
        assert "SPOOL_UNAVAILABLE" in await not_ready(reactor)
        gone.rename(other)
        await recorder.wait_for_all(60, AttemptSettled, is_stored)
    for upload in uploads:
        app.assert_stored(upload)
    assert app.all("select from public.upload_queue") == []
    assert len(held) == 60
    assert not recorder.events_of(AttemptSettled, lambda settled: settled.trail.attempt > 1)


async def test_a_prefix_that_one_user_may_not_write_to_holds_nobody_else(
    app: App, server: FaultServer, credentials: Credentials, recorder: Recorder
) -> None:
    credentials.write("new")
    user = uuid4()
    denied = answers(403, "AccessDenied")
    async with app.running_reactor(recorder, store_url="s3://", retry_base_s=0.05):
        keys: set[str] = set()
        server.fault = lambda request: denied(request) if request.path.rsplit("/", 1)[-1] in keys else stores(request)
        with app.conn.transaction():
            keys.update(upload.key for upload in app.queue_uploads(30, user=user))
            app.queue_uploads(30)
        await recorder.wait_for_all(30, AttemptSettled, is_stored)
        await recorder.wait_for_all(30, AttemptSettled, lambda settled: settled.verdict is Verdict.DEAD)
    assert recorder.events_of(BreakerMoved) == []
    app.assert_usage_matches_rows()
