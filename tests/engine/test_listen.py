"""What commits is reacted to at once; what is heard besides does no harm; what was not heard is found."""

import json
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from support.app import AppSide, Owed
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
def _quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.5)
    monkeypatch.setattr(listen, "CANARY_GRACE_S", 0.4)
    monkeypatch.setattr(listen, "POLLING_INTERVAL_S", 0.3)


async def stored(recorder: Recorder, upload: Owed) -> AttemptSettled:
    return await recorder.wait_for(
        AttemptSettled,
        lambda settled: settled.upload_id == upload.id and settled.verdict is Verdict.STORED,
    )


async def test_a_commit_is_reacted_to_at_once(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder):
        [upload] = app.owe()
        notified = await recorder.wait_for(Notified)
        assert (notified.channel, notified.rows) == ("reactor_uploads", 1)
        started = await recorder.wait_for(AttemptStarted)
        assert started.lag_s < 1.0
        await stored(recorder, upload)
        assert not any(swept.found for swept in recorder.heard(Swept))
    app.assert_stored(upload)


async def test_nothing_is_done_before_the_commit(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder):
        with app.conn.transaction():
            [upload] = app.owe()
            app.conn.execute("select pg_sleep(0.05)")
            assert recorder.heard(Notified) == []
        await stored(recorder, upload)


async def test_a_rollback_is_never_heard_of(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder):
        with app.conn.transaction(force_rollback=True):
            app.owe()
        [upload] = app.owe()
        await stored(recorder, upload)
        assert len(recorder.heard(Notified)) == 1


async def test_what_is_due_at_once_needs_no_timer(app: AppSide, recorder: Recorder) -> None:
    """A hint rounds up to a millisecond: three uploads in ten would be said to be due in a moment, and have two."""
    async with app.reacting(recorder):
        for _ in range(40):
            [upload] = app.owe()
            await stored(recorder, upload)
        # of a loaded machine's clock a millisecond may be doubtful; twelve would be usual if the hint were believed
        assert len(recorder.heard(TimerFired)) < 6


async def test_a_later_upload_is_tried_when_it_is_due(app: AppSide, recorder: Recorder) -> None:
    due_at = app.one("select clock_timestamp() + interval '0.4 s'")
    async with app.reacting(recorder):
        [upload] = app.owe(next_retry_at=due_at)
        started = await recorder.wait_for(AttemptStarted)
        assert app.one("select clock_timestamp()") >= due_at
        assert 0 <= started.lag_s < 1.0
        await stored(recorder, upload)


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
    "a truth": '{"v":1,"at":true,"rows":[["' + uuid4().hex + '",1,0]]}',
    "a bad id": _payload(_row("../../etc/passwd")),
    "an id in capitals": _payload(_row(uuid4().hex.upper() + "A")),
    "a huge tenant": _payload(_row(uuid4().hex, tenant=2**40)),
    "as long as can be": "x" * 7_999,
    "control characters": "\x01\x02\x7f\u2028",
    "SQL": "'; drop table upload_queue; --",
}

FORGED = {
    "a row that isn't there": _payload(_row(uuid4().hex)),
    "in the far future": _payload(_row(uuid4().hex, due=2**52), at=2**52),
    "in the distant past": _payload(_row(uuid4().hex), at=0),
    "the end of a row that isn't there": _payload(_row(uuid4().hex, due=None)),
    "many": _payload(*[_row(uuid4().hex) for _ in range(150)]),
    "ever the same": _payload(*[_row("0" * 32)] * 100),
}


async def test_garbage_is_refused_and_counted_and_work_goes_on(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder):
        for channel in ("reactor_uploads", "reactor_runs"):
            for text in GARBAGE.values():
                app.conn.execute("select pg_notify(%s, %s)", (channel, text))
        [upload] = app.owe()
        run = app.begin_run(timeout_at="2000-01-01")
        await stored(recorder, upload)
        assert (await recorder.wait_for(RunExpired)).run_id == run
        rejected = recorder.heard(NotificationRejected)
        assert len(rejected) == 2 * len(GARBAGE)
        assert not any("passwd" in event.reason for event in rejected)
        assert recorder.heard(ListenerLost) == []


async def test_a_forgery_costs_a_look_up_and_work_goes_on(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder) as reactor:
        for channel in ("reactor_uploads", "reactor_runs"):
            for text in FORGED.values():
                app.conn.execute("select pg_notify(%s, %s)", (channel, text))
        [upload] = app.owe()
        await stored(recorder, upload)
        assert len(recorder.heard(AttemptStarted)) == 1
        assert recorder.heard(NotificationRejected) == []
        assert b"reactor_notifications_total" in reactor.telemetry.prometheus()
    app.assert_stored(upload)


async def test_a_forgery_cannot_hide_a_row(app: AppSide, recorder: Recorder) -> None:
    """Told that a waiting upload is due later, or needs nothing: it may wait for the next pass, no longer."""
    due_at = app.one("select clock_timestamp() + interval '0.5 s'")
    async with app.reacting(recorder, reconcile_interval_s=0.5):
        [upload] = app.owe(next_retry_at=due_at)
        await recorder.wait_for(Notified)
        app.conn.execute("select pg_notify('reactor_uploads', %s)", (_payload(_row(upload.id.hex, due=None)),))
        await recorder.wait_for(Notified)
        await stored(recorder, upload)


async def test_somebody_elses_pulse_proves_nothing(app: AppSide, recorder: Recorder) -> None:
    """Notifications on a reactor's own channel carry no work, whatever they say."""
    async with app.reacting(recorder):
        instance = app.one("select id from reactor.instance")
        channel = f"reactor_canary_{instance.hex[:16]}"
        for text in GARBAGE.values():
            app.conn.execute("select pg_notify(%s, %s)", (channel, text))
        [upload] = app.owe()
        await stored(recorder, upload)
        assert recorder.heard(NotificationRejected) == []


def end_backends(app: AppSide, name: str) -> int:
    return len(
        app.all(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = %s",
            name,
        )
    )


async def test_a_killed_listener_reconnects_and_catches_up(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder):
        app.without_triggers()
        unheard = app.owe(3)
        recorder.forget()
        assert end_backends(app, "reactor-listen") == 1
        assert (await recorder.wait_for(ListenerLost)).reason
        for upload in unheard:
            await stored(recorder, upload)
        await recorder.wait_for(Listening)


async def test_a_new_connection_catches_up_before_it_is_proven(
    app: AppSide, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A presence that takes its time, or never comes back, delays nothing of what was missed."""
    monkeypatch.setattr(listen, "CANARY_GRACE_S", 600.0)
    async with proxied(app.url) as proxy, app.reacting(recorder, listen_url=proxy.url):
        app.without_triggers()
        unheard = app.owe(3)
        recorder.forget()
        proxy.swallows_notifications = True
        proxy.reset()
        for upload in unheard:
            await stored(recorder, upload)
        assert recorder.heard(ListenerLost)
        assert len(recorder.heard(Listening)) == 1


async def test_what_commits_while_nobody_can_connect_is_found(
    app: AppSide, recorder: Recorder, server_url: str
) -> None:
    """Every connection is lost and none can be made for a while, and the app goes on writing."""
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    async with app.reacting(recorder):
        recorder.forget()
        with psycopg.connect(server_url, autocommit=True) as admin:
            admin.execute(sql.SQL("alter database {} allow_connections false").format(name))
            assert end_backends(app, "reactor-listen") == 1
            assert end_backends(app, "reactor") >= 1
            await recorder.wait_for(ListenerLost)
            uploads = app.owe(5)
            run = app.begin_run(timeout_at="2000-01-01")
            admin.execute(sql.SQL("alter database {} allow_connections true").format(name))
        for upload in uploads:
            await stored(recorder, upload)
        assert (await recorder.wait_for(RunExpired)).run_id == run
        await recorder.wait_for(Listening)
    for upload in uploads:
        app.assert_stored(upload)


@pytest.mark.usefixtures("_quick_pulse")
async def test_who_hears_nothing_polls_and_says_so(app: AppSide, recorder: Recorder) -> None:
    """As behind a transaction pooler: LISTEN succeeds, and nothing ever comes."""
    async with proxied(app.url) as proxy, app.reacting(recorder, listen_url=proxy.url) as reactor:
        assert reactor.not_ready() == []
        recorder.forget()
        proxy.swallows_notifications = True
        polling = await recorder.wait_for(Polling)
        assert polling.interval_s == 0.3
        assert reactor.not_ready() == ["polling: notifications don't arrive"]

        [upload] = app.owe()
        await stored(recorder, upload)
        assert recorder.heard(Notified) == []

        recorder.forget()
        proxy.swallows_notifications = False
        await recorder.wait_for(Listening)
        assert reactor.not_ready() == []
        [upload] = app.owe()
        await recorder.wait_for(Notified)
        await stored(recorder, upload)


@pytest.mark.usefixtures("_quick_pulse")
async def test_a_dead_peer_that_stays_connected_is_noticed(app: AppSide, recorder: Recorder) -> None:
    """As behind a middlebox that lost the connection and still acknowledges."""
    async with proxied(app.url) as proxy, app.reacting(recorder, listen_url=proxy.url):
        recorder.forget()
        proxy.freeze()
        [upload] = app.owe()
        await recorder.wait_for(ListenerLost)
        await stored(recorder, upload)
        await recorder.wait_for(Listening)
        assert recorder.heard(Polling) == []


@pytest.mark.parametrize("fault", [Proxy.freeze, Proxy.blackhole])
async def test_a_dead_peer_is_noticed_without_waiting_for_a_pulse(
    fault: Callable[[Proxy], None], app: AppSide, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 600.0)
    monkeypatch.setattr(listener, "ASK_EVERY_S", 0.3)
    async with proxied(app.url) as proxy, app.reacting(recorder, listen_url=proxy.url):
        recorder.forget()
        fault(proxy)
        [upload] = app.owe()
        assert "silent" in (await recorder.wait_for(ListenerLost)).reason
        await recorder.wait_for(Listening)
        await stored(recorder, upload)


async def test_reactors_hear_each_other_come_and_go(
    app: AppSide, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And needn't wait for their next pulses to know whose turn a row is, or that retries went with who left."""
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 600.0)
    other = Recorder()
    async with app.reacting(recorder):
        async with app.reacting(other):
            [seen] = other.heard(ReactorsChanged)
            assert (seen.alive, seen.joined, seen.left) == (2, 1, 0)
            came = await recorder.wait_for(ReactorsChanged)
            assert (came.alive, came.joined, came.left) == (2, 1, 0)
            assert app.one("select count(*) from reactor.instance") == 2
        went = await recorder.wait_for(ReactorsChanged)
        assert (went.alive, went.joined, went.left) == (1, 0, 1)
        await recorder.wait_for(Swept)  # it looks at what the other may have left
    assert app.one("select count(*) from reactor.instance") == 0


async def test_one_statement_of_many_rows_is_few_notifications(app: AppSide, recorder: Recorder) -> None:
    async with app.reacting(recorder):
        uploads = app.owe(250)
        await recorder.wait_for_all(len(uploads), AttemptSettled)
        assert sorted(event.rows for event in recorder.heard(Notified)) == [50, 100, 100]
        assert app.one("select count(*) from public.upload_queue") == 0
        app.assert_usage_matches_rows()
