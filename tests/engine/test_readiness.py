"""Readiness names what is missing, and the reactor continues to run."""

from collections.abc import Callable
from urllib.parse import urlsplit

import psycopg
import pytest
from anyio import fail_after, sleep, to_thread
from psycopg import sql
from support.app import App
from support.process import fetch
from support.recorder import Recorder

from reactor.app import Reactor
from reactor.core.events import DatabaseLost
from reactor.engine import listen, readiness

_LOOK_EVERY_S = 0.02


async def until(what: Callable[[], bool]) -> None:
    with fail_after(40):
        while not what():  # noqa: ASYNC110 - readiness emits no event, so it must be polled
            await sleep(_LOOK_EVERY_S)


async def test_a_database_that_does_not_answer_makes_the_reactor_unready_but_not_unhealthy(
    app: App, server_url: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listening connection still works; only queries get no answer."""
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.3)
    monkeypatch.setattr(readiness, "UNANSWERED_S", 1.0)
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    async with app.running_reactor(recorder) as reactor:
        assert reactor.not_ready() == []
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(sql.SQL("alter database {} allow_connections false").format(name))
            app.conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'reactor'"
            )
            await recorder.wait_for(DatabaseLost, lambda lost: lost.doing == "report presence")
            await until(lambda: any("hasn't answered for" in reason for reason in reactor.not_ready()))
            assert await answers(reactor, "/healthz") == 200
            assert await answers(reactor, "/readyz") == 503
            conn.execute(sql.SQL("alter database {} allow_connections true").format(name))
        await until(lambda: reactor.not_ready() == [])
        assert await answers(reactor, "/readyz") == 200


async def answers(reactor: Reactor, path: str) -> int:
    return (await to_thread.run_sync(fetch, reactor.http_url + path))[0]


async def test_one_failed_query_does_not_make_the_reactor_unready(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.3)
    async with app.running_reactor(recorder) as reactor:
        reactor.emit(DatabaseLost(doing="report presence", reason="once"))
        assert reactor.not_ready() == []
        monkeypatch.setattr(readiness, "UNANSWERED_S", -1.0)
        await until(lambda: reactor.not_ready() == [])  # the next presence report succeeded


async def test_a_lost_listening_connection_alone_is_no_database_outage(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "UNANSWERED_S", -1.0)
    async with app.running_reactor(recorder) as reactor:
        reactor.emit(DatabaseLost(doing="listen", reason="refused"))
        assert reactor.not_ready() == []
