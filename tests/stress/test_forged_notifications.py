"""A role without any grant can send notifications. None of them delays an upload or a run."""

import json
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
from support.app import App, QueuedUpload
from support.recorder import Recorder

from reactor.core.events import AttemptSettled, Notified, RunExpired
from reactor.core.model import Verdict

LATE_MS = 840_000


class Stranger:
    """A session of a role that has no grants. It listens on both channels."""

    def __init__(self, url: str) -> None:
        self._conn = psycopg.connect(url, autocommit=True)
        self._conn.execute("drop role if exists stranger")
        self._conn.execute("create role stranger nosuperuser")
        self._conn.execute("set role stranger")

    def tenant_of(self, user: UUID) -> int:
        [row] = self._conn.execute("select uuid_hash(%s)", [user])
        return int(row[0])

    def notify(self, channel: str, row_id: UUID, tenant: int, due_ms: int | None) -> None:
        [now] = self._conn.execute("select floor(1000 * date_part('epoch', now()))::bigint")
        payload = {"v": 1, "at": now[0], "rows": [[row_id.hex, tenant, due_ms]]}
        self._conn.execute("select pg_notify(%s, %s)", [channel, json.dumps(payload)])

    def close(self) -> None:
        self._conn.execute("reset role")
        self._conn.execute("drop role stranger")
        self._conn.close()


@pytest.fixture
def stranger(app: App) -> Iterator[Stranger]:
    session = Stranger(app.url)
    yield session
    session.close()


async def forge(stranger: Stranger, recorder: Recorder, upload: QueuedUpload, due_ms: int | None) -> None:
    """Send a notification about the upload; return when the reactor has received it."""
    recorder.skip_recorded()
    stranger.notify("reactor_uploads", upload.id, stranger.tenant_of(upload.user), due_ms)
    await recorder.wait_for(Notified)


@pytest.mark.parametrize("due_ms", [LATE_MS, 86_400_000, None])
async def test_a_forged_notification_delays_no_retry(
    app: App, recorder: Recorder, stranger: Stranger, due_ms: int | None
) -> None:
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads(next_retry_at="tomorrow")
        app.conn.execute("update public.upload_queue set next_retry_at = clock_timestamp() + interval '1 s'")
        await forge(stranger, recorder, upload, due_ms)
        settled = await recorder.wait_for(AttemptSettled, within_s=10.0)
    assert settled.verdict is Verdict.STORED


@pytest.mark.parametrize("due_ms", [LATE_MS, None])
async def test_a_forged_notification_delays_no_stale_run(
    app: App, recorder: Recorder, stranger: Stranger, due_ms: int | None
) -> None:
    async with app.running_reactor(recorder):
        run = app.begin_run()
        app.conn.execute(
            "update public.interpretation_runs set timeout_at = clock_timestamp() + interval '1 s' where id = %s", [run]
        )
        tenant = stranger.tenant_of(app.run(run)["user_id"])
        await recorder.wait_for(Notified)
        stranger.notify("reactor_runs", run, tenant, due_ms)
        assert (await recorder.wait_for(RunExpired, within_s=10.0)).run_id == run


async def test_a_notification_that_comes_before_the_reactors_own_is_corrected_by_a_sweep(
    app: App, recorder: Recorder, stranger: Stranger
) -> None:
    app.disable_triggers()
    async with app.running_reactor(recorder) as reactor:
        [upload] = app.queue_uploads()
        await forge(stranger, recorder, upload, LATE_MS)
        await reactor.reconcile()
        settled = await recorder.wait_for(AttemptSettled, within_s=10.0)
    assert settled.verdict is Verdict.STORED
