"""A session that listens and never reads makes the notification queue full. The app's writes still succeed, and the
reactor finds the written rows by polling."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.app import App, open_app
from support.recorder import Recorder
from support.small_queue import fill, small_queue, stuck_listener

from reactor.core.events import AttemptSettled, DatabaseLost, Listening, Notified, Polling, RunExpired
from reactor.core.model import Verdict
from reactor.engine import listen


@pytest.fixture
def app(server_url: str, reachable_folder: Path, tmp_path: Path) -> Iterator[App]:
    with small_queue(server_url, reachable_folder) as url, open_app(url, tmp_path) as app:
        yield app


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.5)
    monkeypatch.setattr(listen, "POLLING_INTERVAL_S", 0.3)


async def test_with_a_full_queue_the_app_can_write_polling_finds_it_and_the_queue_recovers(
    app: App, recorder: Recorder
) -> None:
    async with app.running_reactor(recorder) as reactor:
        with stuck_listener(app.url):
            fill(app.url)
            polling = await recorder.wait_for(Polling)
            assert polling.interval_s == 0.3
            cause, effect = reactor.not_ready()
            assert "the server's notification queue is" in cause
            assert effect == "polling: notifications don't arrive"
            recorder.skip_recorded()

            uploads = [app.queue_uploads()[0] for _ in range(50)]  # 50 commits; none may fail
            run = app.begin_run(timeout_at="2000-01-01")
            await recorder.wait_for_all(50, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
            assert (await recorder.wait_for(RunExpired)).run_id == run
            assert recorder.events_of(DatabaseLost, lambda lost: lost.doing == "report presence") == []
            recorder.skip_recorded()
        await recorder.wait_for(Listening)
        assert app.one("select pg_notification_queue_usage()") < 0.01
        assert reactor.not_ready() == []
        recorder.skip_recorded()

        [upload] = app.queue_uploads()
        await recorder.wait_for(Notified)
        await recorder.wait_for(AttemptSettled)
    for stored in [*uploads, upload]:
        app.assert_stored(stored)
    app.assert_usage_matches_rows()


async def test_one_reconciliation_works_while_the_queue_is_full(app: App, recorder: Recorder) -> None:
    with stuck_listener(app.url):
        fill(app.url)
        uploads = app.queue_uploads(20)
        await app.drain(recorder)
    for upload in uploads:
        app.assert_stored(upload)
