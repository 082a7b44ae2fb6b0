"""A commit causes an attempt immediately; forged notifications do no harm; rows with lost notifications are found."""

import json
import os
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from support.app import App, QueuedUpload
from support.recorder import Recorder
from support.servers.proxy import Proxy, proxied

from reactor.core.events import (
    AttemptSettled,
    AttemptStarted,
    ListenerLost,
    Listening,
    NotificationRejected,
    Notified,
    Polling,
    ReactorsChanged,
    RunExpired,
    Swept,
    TimerFired,
)
from reactor.core.model import Verdict
from reactor.engine import listen
from reactor.postgres import listener


@pytest.fixture
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.5)
    monkeypatch.setattr(listen, "CANARY_GRACE_S", 0.4)
    monkeypatch.setattr(listen, "POLLING_INTERVAL_S", 0.3)


async def wait_until_stored(recorder: Recorder, upload: QueuedUpload) -> AttemptSettled:
    return await recorder.wait_for(
        AttemptSettled,
        lambda settled: settled.upload_id == upload.id and settled.verdict is Verdict.STORED,
    )


async def test_an_upload_is_attempted_immediately_after_its_commit(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads()
        notified = await recorder.wait_for(Notified)
        assert (notified.channel, notified.rows) == ("reactor_uploads", 1)
        started = await recorder.wait_for(AttemptStarted)
        assert started.lag_s < 1.0
        await wait_until_stored(recorder, upload)
        assert not any(swept.found for swept in recorder.events_of(Swept))
    app.assert_stored(upload)


async def test_an_upload_is_not_attempted_before_its_commit(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            app.conn.execute("select pg_sleep(0.05)")
            assert recorder.events_of(Notified) == []
        await wait_until_stored(recorder, upload)


async def test_a_rolled_back_upload_is_not_notified(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        with app.conn.transaction(force_rollback=True):
            app.queue_uploads()
        [upload] = app.queue_uploads()
        await wait_until_stored(recorder, upload)
        assert len(recorder.events_of(Notified)) == 1


async def test_an_upload_due_at_commit_needs_no_timer(app: App, recorder: Recorder) -> None:
    """Hints round due times up to 1 ms. If signals waited for the rounding, 3 of 10 uploads would need a timer."""
    async with app.running_reactor(recorder):
        for _ in range(40):
            [upload] = app.queue_uploads()
            await wait_until_stored(recorder, upload)
        # a few may need a timer on a loaded machine; if signals waited for the rounding, about 12 would
        assert len(recorder.events_of(TimerFired)) < 6


async def test_an_upload_due_later_is_attempted_when_it_is_due(app: App, recorder: Recorder) -> None:
    due_at = app.one("select clock_timestamp() + interval '0.4 s'")
    async with app.running_reactor(recorder):
        [upload] = app.queue_uploads(next_retry_at=due_at)
        started = await recorder.wait_for(AttemptStarted)
        assert app.one("select clock_timestamp()") >= due_at
        assert 0 <= started.lag_s < 1.0
        await wait_until_stored(recorder, upload)


def _row(row_id: str, tenant: object = 1, due: object = 0) -> list[object]:
    return [row_id, tenant, due]


def _payload(*rows: object, at: object = 0) -> str:
    return json.dumps({"v": 1, "at": at, "rows": rows})


GARBAGE = {
    "nothing": "",
    "no JSON": "not json",
    "a number": "1",
    "null": "null",
    "a list": "[]",
    "an empty object": "{}",
    "another version": '{"v": 2, "rescan": true}',
    "no rows": _payload(),
    "half a payload": '{"v":1,"at":1,"rows":[["',
    "deeply nested": "[" * 7_000,
    "a huge number": _payload(_row(uuid4().hex, due=10**400)),
    "a huge time": _payload(_row(uuid4().hex), at=10**30),
    "a negative time": _payload(_row(uuid4().hex, due=-1)),
    "not a number": '{"v":1,"at":NaN,"rows":[["' + uuid4().hex + '",1,0]]}',
    "an infinite time": '{"v":1,"at":0,"rows":[["' + uuid4().hex + '",1,Infinity]]}',
    "true as a time": '{"v":1,"at":true,"rows":[["' + uuid4().hex + '",1,0]]}',
    "a bad id": _payload(_row("../../etc/passwd")),
    "an id in capitals": _payload(_row(uuid4().hex.upper() + "A")),
    "a huge tenant": _payload(_row(uuid4().hex, tenant=2**40)),
    "the longest possible": "x" * 7_999,
    "control characters": "\x01\x02\x7f\u2028",
    "SQL": "'; drop table upload_queue; --",
}

FORGED = {
    "a missing row": _payload(_row(uuid4().hex)),
    "in the far future": _payload(_row(uuid4().hex, due=2**52), at=2**52),
    "in the distant past": _payload(_row(uuid4().hex), at=0),
    "the end of a missing row": _payload(_row(uuid4().hex, due=None)),
    "many": _payload(*[_row(uuid4().hex) for _ in range(150)]),
    "one row a hundred times": _payload(*[_row("0" * 32)] * 100),
}


async def test_invalid_payloads_are_rejected_and_counted_and_work_continues(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        for channel in ("reactor_uploads", "reactor_runs"):
            for text in GARBAGE.values():
                app.conn.execute("select pg_notify(%s, %s)", (channel, text))
        [upload] = app.queue_uploads()
        run = app.begin_run(timeout_at="2000-01-01")
        await wait_until_stored(recorder, upload)
        assert (await recorder.wait_for(RunExpired)).run_id == run
        rejected = recorder.events_of(NotificationRejected)
        assert len(rejected) == 2 * len(GARBAGE)
        assert not any("passwd" in event.reason for event in rejected)
        assert recorder.events_of(ListenerLost) == []


async def test_a_forged_notification_costs_one_look_up_and_work_continues(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder) as reactor:
        for channel in ("reactor_uploads", "reactor_runs"):
            for text in FORGED.values():
                app.conn.execute("select pg_notify(%s, %s)", (channel, text))
        [upload] = app.queue_uploads()
        await wait_until_stored(recorder, upload)
        assert len(recorder.events_of(AttemptStarted)) == 1
        assert recorder.events_of(NotificationRejected) == []
        assert b"reactor_notifications_total" in await reactor.metrics()
    app.assert_stored(upload)


async def test_a_forged_notification_cannot_delay_a_row(app: App, recorder: Recorder) -> None:
    """A forged hint without a due time cancels the upload's signal. The next reconciliation schedules it again."""
    due_at = app.one("select clock_timestamp() + interval '0.5 s'")
    async with app.running_reactor(recorder, reconcile_interval_s=0.5):
        [upload] = app.queue_uploads(next_retry_at=due_at)
        await recorder.wait_for(Notified)
        app.conn.execute("select pg_notify('reactor_uploads', %s)", (_payload(_row(upload.id.hex, due=None)),))
        await recorder.wait_for(Notified)
        await wait_until_stored(recorder, upload)


async def test_garbage_on_the_canary_channel_is_ignored(app: App, recorder: Recorder) -> None:
    """Notifications on a reactor's own channel never cause work."""
    async with app.running_reactor(recorder):
        instance = app.one("select id from reactor.instance")
        channel = f"reactor_canary_{instance.hex[:16]}"
        for text in GARBAGE.values():
            app.conn.execute("select pg_notify(%s, %s)", (channel, text))
        [upload] = app.queue_uploads()
        await wait_until_stored(recorder, upload)
        assert recorder.events_of(NotificationRejected) == []


def end_backends(app: App, name: str) -> int:
    return len(
        app.all(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = %s",
            name,
        )
    )


async def test_a_terminated_listener_reconnects_and_catches_up(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        app.disable_triggers()
        missed = app.queue_uploads(3)
        recorder.skip_recorded()
        assert end_backends(app, "reactor-listen") == 1
        assert (await recorder.wait_for(ListenerLost)).reason
        for upload in missed:
            await wait_until_stored(recorder, upload)
        await recorder.wait_for(Listening)


async def test_a_new_connection_catches_up_before_its_canary_returns(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reactor sweeps as soon as it is connected. It doesn't wait for the canary, which may be slow or lost."""
    monkeypatch.setattr(listen, "CANARY_GRACE_S", 600.0)
    async with proxied(app.url) as proxy, app.running_reactor(recorder, listen_url=proxy.url):
        app.disable_triggers()
        missed = app.queue_uploads(3)
        recorder.skip_recorded()
        proxy.swallows_notifications = True
        proxy.reset()
        for upload in missed:
            await wait_until_stored(recorder, upload)
        assert recorder.events_of(ListenerLost)
        assert len(recorder.events_of(Listening)) == 1


async def test_uploads_committed_while_no_connection_is_possible_are_found(
    app: App, recorder: Recorder, server_url: str
) -> None:
    """The test terminates the reactor's connections and refuses new ones while the app continues to write."""
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    async with app.running_reactor(recorder):
        recorder.skip_recorded()
        with psycopg.connect(server_url, autocommit=True) as admin:
            admin.execute(sql.SQL("alter database {} allow_connections false").format(name))
            assert end_backends(app, "reactor-listen") == 1
            assert end_backends(app, "reactor") >= 1
            await recorder.wait_for(ListenerLost)
            uploads = app.queue_uploads(5)
            run = app.begin_run(timeout_at="2000-01-01")
            admin.execute(sql.SQL("alter database {} allow_connections true").format(name))
        for upload in uploads:
            await wait_until_stored(recorder, upload)
        assert (await recorder.wait_for(RunExpired)).run_id == run
        await recorder.wait_for(Listening)
    for upload in uploads:
        app.assert_stored(upload)


@pytest.mark.usefixtures("_short_intervals")
async def test_a_listener_that_receives_nothing_falls_back_to_polling_and_reports_it(
    app: App, recorder: Recorder
) -> None:
    """Behind a transaction pooler, LISTEN succeeds, but notifications don't arrive."""
    async with proxied(app.url) as proxy, app.running_reactor(recorder, listen_url=proxy.url) as reactor:
        assert reactor.not_ready() == []
        recorder.skip_recorded()
        proxy.swallows_notifications = True
        polling = await recorder.wait_for(Polling)
        assert polling.interval_s == 0.3
        cause = "no test notification comes back: is REACTOR_LISTEN_URL a transaction pooler?"
        assert reactor.not_ready() == [cause, "polling: notifications don't arrive"]

        [upload] = app.queue_uploads()
        await wait_until_stored(recorder, upload)
        assert recorder.events_of(Notified) == []

        recorder.skip_recorded()
        proxy.swallows_notifications = False
        await recorder.wait_for(Listening)
        assert reactor.not_ready() == []
        [upload] = app.queue_uploads()
        await recorder.wait_for(Notified)
        await wait_until_stored(recorder, upload)


@pytest.mark.usefixtures("_short_intervals")
async def test_a_silent_connection_is_detected_by_the_canary(app: App, recorder: Recorder) -> None:
    """A middlebox may drop a connection and still acknowledge TCP segments, so the connection reports no error."""
    async with proxied(app.url) as proxy, app.running_reactor(recorder, listen_url=proxy.url):
        recorder.skip_recorded()
        proxy.freeze()
        [upload] = app.queue_uploads()
        await recorder.wait_for(ListenerLost)
        await wait_until_stored(recorder, upload)
        await recorder.wait_for(Listening)
        assert recorder.events_of(Polling) == []


@pytest.mark.parametrize("fault", [Proxy.freeze, Proxy.blackhole])
async def test_a_dead_peer_is_detected_before_the_next_canary(
    fault: Callable[[Proxy], None], app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 600.0)
    monkeypatch.setattr(listener, "SYNC_INTERVAL_S", 0.3)
    async with proxied(app.url) as proxy, app.running_reactor(recorder, listen_url=proxy.url):
        recorder.skip_recorded()
        fault(proxy)
        [upload] = app.queue_uploads()
        assert "silent" in (await recorder.wait_for(ListenerLost)).reason
        await recorder.wait_for(Listening)
        await wait_until_stored(recorder, upload)


async def test_reactors_are_notified_when_another_starts_or_stops(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the notification, a reactor would notice the change only at its next presence report."""
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 600.0)
    other = Recorder()
    async with app.running_reactor(recorder):
        async with app.running_reactor(other):
            [seen] = other.events_of(ReactorsChanged)
            assert (seen.alive, seen.joined, seen.left) == (2, 1, 0)
            joined = await recorder.wait_for(ReactorsChanged)
            assert (joined.alive, joined.joined, joined.left) == (2, 1, 0)
            assert app.one("select count(*) from reactor.instance") == 2
            recorder.skip_recorded()
        left = await recorder.wait_for(ReactorsChanged)
        assert (left.alive, left.joined, left.left) == (1, 0, 1)
        await recorder.wait_for(Swept)  # this reactor sweeps for rows that only the stopped one had scheduled
    assert app.one("select count(*) from reactor.instance") == 0


async def test_reactors_of_one_host_are_distinguishable_and_a_dead_one_is_silent(app: App, recorder: Recorder) -> None:
    """By port and process. A reactor that was killed stays in the table, with the mode it had last."""
    other = Recorder()
    async with app.running_reactor(recorder) as one, app.running_reactor(other) as two:
        app.conn.execute(
            "insert into reactor.instance (id, host, pid, port, version, mode, seen_at) values"
            " (gen_random_uuid(), 'h', 7, 8321, '0', 'listening', now() - interval '21 s'),"
            " (gen_random_uuid(), 'h', 8, 8321, '0', 'listening', now() - interval '2 days')"
        )
        for figures in (app.one("select reactor.status('60 s')"), app.one("select reactor.live_summary('60 s', 9)")):
            seen = {(each["port"], each["pid"]): each["mode"] for each in figures["reactors"]}
            ports = [urlsplit(reactor.http_url).port for reactor in (one, two)]
            assert seen == {(port, os.getpid()): "listening" for port in ports} | {(8321, 7): "silent"}


async def test_a_statement_with_many_rows_sends_few_notifications(app: App, recorder: Recorder) -> None:
    async with app.running_reactor(recorder):
        uploads = app.queue_uploads(250)
        await recorder.wait_for_all(len(uploads), AttemptSettled)
        assert sorted(event.rows for event in recorder.events_of(Notified)) == [50, 100, 100]
        assert app.one("select count(*) from public.upload_queue") == 0
        app.assert_usage_matches_rows()
