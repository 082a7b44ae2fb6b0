"""Credentials expire while 300 uploads of 20 users wait, and are renewed 20 s later."""

import json
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from anyio import fail_after, sleep, to_thread
from support import aws
from support.app import BUCKET, App
from support.process import fetch
from support.recorder import Recorder
from support.servers.fault_server import FaultServer, answers, stores

from reactor.core.events import AttemptSettled, BreakerMoved
from reactor.core.model import Verdict

pytestmark = pytest.mark.chaos

EXPIRED_FOR_S = 20.0
UPLOADS = 300
USERS = 20


def write(credentials: Path, key: str) -> None:
    secret = "no-server-has-this-one"  # noqa: S105  # made up
    credentials.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")


async def test_expired_credentials_cost_no_upload_an_attempt(
    app: App, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    write(credentials, "old")
    expired = answers(400, "ExpiredToken", "The provided token has expired.")
    with FaultServer() as server:
        variables = aws.environment(server.endpoint, access_key="", secret_key="")
        variables = {name: value for name, value in variables.items() if "KEY" not in name}
        aws.use(variables | {"AWS_SHARED_CREDENTIALS_FILE": str(credentials)}, monkeypatch)
        server.fault = lambda request: (
            expired(request)
            if "Credential=old/" in request.headers.get("Authorization", "") and request.command == "PUT"
            else stores(request)
        )
        async with app.running_reactor(recorder, store_url="s3://") as reactor:
            url = urlsplit(reactor.http_url)
            base = f"{url.scheme}://{url.netloc}"
            users = [uuid4() for _ in range(USERS)]
            queued_at = monotonic()
            with app.conn.transaction():
                uploads = [app.queue_uploads(user=users[number % USERS])[0] for number in range(UPLOADS)]
            await recorder.wait_for(BreakerMoved)
            status, reasons = await to_thread.run_sync(fetch, f"{base}/readyz")
            assert status == 503
            assert "ExpiredToken" in json.dumps(json.loads(reasons))
            assert "ExpiredToken" in (await to_thread.run_sync(fetch, f"{base}/"))[1]
            assert monotonic() - queued_at < 3.0 + 2.0  # 3 s after the first refusal, and the time to insert the rows
            await sleep(EXPIRED_FOR_S)
            assert not recorder.events_of(AttemptSettled, lambda settled: settled.verdict is not Verdict.DEFERRED)
            write(credentials, "new")
            with fail_after(35.0):
                await recorder.wait_for_all(
                    UPLOADS, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED, within_s=35.0
                )
            assert (await to_thread.run_sync(fetch, f"{base}/readyz"))[0] == 200
        # each upload was stored with its first counted attempt, also those that were probes
        stored = recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
        assert {settled.trail.attempt for settled in stored} == {1}
        assert not recorder.events_of(AttemptSettled, lambda settled: settled.verdict is Verdict.DEAD)
        assert all(server.objects[f"/{BUCKET}/{upload.key}"] == upload.content for upload in uploads)
        app.assert_usage_matches_rows()
