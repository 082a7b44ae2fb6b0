"""During a fault, page, readiness, status and log state its cause first, and describe all reactors of the database."""

import json
import re
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from anyio import fail_after, sleep, to_thread
from loguru import logger
from psycopg import sql
from support.app import App
from support.process import fetch, running, settings_of
from support.recorder import Recorder
from support.servers.proxy import proxied
from support.stubborn_store import StubbornStore

from reactor.app import Reactor
from reactor.core.events import AttemptStarted, DatabaseAnswers, DatabaseLost, Listening, Polling
from reactor.engine import listen

_PATIENCE_S = 30.0
_LOOK_EVERY_S = 0.1


async def get(reactor: Reactor, path: str) -> tuple[int, str]:
    return await to_thread.run_sync(fetch, reactor.http_url + path)


async def troubles_of(url: str) -> list[str]:
    _, body = await to_thread.run_sync(fetch, url + "/api/live")
    return list(json.loads(body)["troubles"])


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = _PATIENCE_S) -> float:
    """Wait until the condition is true; return how long it took."""
    began = time.monotonic()
    with fail_after(within_s):
        while not await condition():  # noqa: ASYNC110 - no event shows that an answer has changed
            await sleep(_LOOK_EVERY_S)
    return time.monotonic() - began


@contextmanager
def outage(app: App, server_url: str) -> Iterator[None]:
    """End the reactors' connections, and refuse new ones during the block."""
    name = sql.Identifier(urlsplit(app.url).path.lstrip("/"))
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(sql.SQL("alter database {} allow_connections false").format(name))
        app.conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name ~ '^reactor'"
        )
        try:
            yield
        finally:
            conn.execute(sql.SQL("alter database {} allow_connections true").format(name))


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The messages logged at INFO and above."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


# the database doesn't answer


async def test_a_database_that_is_down_is_the_first_line_everywhere(
    app: App, server_url: str, recorder: Recorder, log: list[str]
) -> None:
    """Nothing else is reported, answers take about a second, and the log has few lines and one at the end."""
    async with app.running_reactor(recorder) as reactor:
        await get(reactor, "/api/status")
        await get(reactor, "/metrics")
        log.clear()
        with outage(app, server_url):
            await recorder.wait_for(DatabaseLost, lambda lost: lost.doing == "listen")
            status, body = await get(reactor, "/readyz")
            reasons = json.loads(body)["reasons"]
            assert (status, reasons[-1]) == (503, "not listening")
            assert "is not currently accepting connections" in reasons[0]

            found = await troubles_of(reactor.http_url)
            assert len(found) == 1
            assert found[0].startswith("The database does not answer: ")
            assert "is not currently accepting connections" in found[0]
            _, page = await get(reactor, "/")
            assert "One thing is wrong." in page
            assert "has not listened" not in page

            await recorder.wait_for(DatabaseLost, lambda lost: lost.doing == "report presence")
            _, body = await get(reactor, "/readyz")
            assert json.loads(body)["reasons"][0].startswith("the database does not answer: ")
            for path, expected in (("/api/status", HTTPStatus.SERVICE_UNAVAILABLE), ("/metrics", HTTPStatus.OK)):
                began = time.monotonic()
                status, body = await get(reactor, path)
                assert time.monotonic() - began < 2.0, path
                assert status == expected
                if path == "/api/status":
                    answer = json.loads(body)
                    assert answer["error"] == "DATABASE_UNAVAILABLE"
                    assert "is not currently accepting connections" in answer["message"]
                    assert answer["reasons"][0].startswith("the database does not answer: ")
                    assert answer["last_figures"]["uploads"]["dead"] == 0
                    assert answer["last_figures"]["age_s"] > 0
                else:
                    assert 'quota_rejections_total{plan="free",quota="storage"} 0.0' in body
        await recorder.wait_for(DatabaseAnswers)
        await recorder.wait_for(Listening)

        async def is_well() -> bool:
            return await troubles_of(reactor.http_url) == []

        await until(is_well)
        assert (await get(reactor, "/readyz"))[0] == HTTPStatus.OK
    ends = [re.sub(r"\d+\.\d", "N", line) for line in log if re.search(r" after \d+\.\d s( |$)", line)]
    assert sorted(ends) == [
        "listening for notifications: the test notification has arrived, after N s without notifications",
        "the database answers again after N s",
    ]


async def test_an_outage_logs_fewer_than_a_hundred_lines_a_minute(
    app: App, server_url: str, recorder: Recorder, log: list[str]
) -> None:
    """With uploads and runs whose claims fail twice a second. Lines are fewest in a long outage."""
    async with app.running_reactor(recorder) as reactor:
        app.queue_uploads(5, next_retry_at=f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time.time() + 2))}+00")
        app.begin_run(
            heartbeat_at="2100-01-01",
            timeout_at=f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time.time() + 2))}+00",
        )
        await until(lambda: _has_timers(reactor))
        log.clear()
        with outage(app, server_url):
            began = time.monotonic()
            await recorder.wait_for_all(20, DatabaseLost)
            lasted_s = time.monotonic() - began
            lines = [line for line in log if line.startswith(("couldn't", "lost the"))]
    emitted = len(recorder.events_of(DatabaseLost))
    assert emitted >= 20
    # each of six calls logs at most four lines in its first 71 s
    assert len(lines) <= 6 * 3
    assert len(lines) < 100, (lasted_s, lines)


async def _has_timers(reactor: Reactor) -> bool:
    _, body = await get(reactor, "/metrics")
    return any(line.startswith("reactor_wheel_timers") and float(line.split()[-1]) >= 2 for line in body.splitlines())


async def test_a_server_that_becomes_silent_delays_no_answer(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a refusal: the connections stay open, and nothing comes back."""
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 1.0)
    async with (
        proxied(app.url) as proxy,
        app.running_reactor(recorder, database_url=proxy.url, listen_url=None) as reactor,
    ):
        for path in ("/api/status", "/"):
            await get(reactor, path)
        proxy.freeze()

        async def is_known() -> bool:
            began = time.monotonic()
            status, _ = await get(reactor, "/readyz")
            assert time.monotonic() - began < 1.0
            return status == HTTPStatus.SERVICE_UNAVAILABLE

        await until(is_known)
        for path in ("/metrics", "/api/live", "/"):
            began = time.monotonic()
            await get(reactor, path)
            assert time.monotonic() - began < 2.5, path
        proxy.reset()


async def test_a_server_that_takes_no_writes_is_called_so_and_not_silent(app: App, recorder: Recorder) -> None:
    """It answers reads, so the page has figures. Nothing that follows from it is reported."""
    app.queue_uploads(3, next_retry_at="2000-01-01", spooled=False, status="uploading", lease_expires_at="2000-01-01")
    async with app.running_reactor(recorder) as reactor:
        standby = "the server takes no writes: it is a standby"
        for doing in ("claim uploads", "report presence"):
            reactor.emit(DatabaseLost(doing=doing, reason=standby))
        [found] = [trouble for trouble in await troubles_of(reactor.http_url) if "dead" not in trouble]
        assert found.startswith("The server takes no writes: it is a standby (for ")
        assert json.loads((await get(reactor, "/api/status"))[1])["uploads"]


async def test_the_figures_are_served_until_the_last_attempt_has_ended(
    app: App, recorder: Recorder, store: StubbornStore
) -> None:
    async with app.running_reactor(recorder, store=store) as reactor:
        store.open.clear()
        app.queue_uploads()
        await recorder.wait_for(AttemptStarted)
        reactor.stop()
        _, body = await get(reactor, "/api/status")
        assert json.loads(body)["uploads"]["uploading"] == 1
        _, body = await get(reactor, "/readyz")
        assert json.loads(body)["reasons"][0] == "shutting down"
        store.open.set()


# the fleet


def found_in(troubles: list[str], words: str) -> bool:
    return any(words in trouble for trouble in troubles)


async def test_a_stopped_reactor_is_reported_by_the_others_within_20_s(app: App, recorder: Recorder) -> None:
    with running(settings_of(app), cwd=app.spool) as other:
        other.wait_until_ready()
        async with app.running_reactor(recorder) as reactor:
            assert await troubles_of(reactor.http_url) == []
            other.process.send_signal(signal.SIGSTOP)
            try:

                async def is_reported() -> bool:
                    return found_in(await troubles_of(reactor.http_url), "No report from ")

                assert await until(is_reported) <= 20.0
                _, body = await get(reactor, "/api/status")
                modes = [each["mode"] for each in json.loads(body)["reactors"]]
                assert sorted(modes) == ["listening", "silent"]
                _, page = await get(reactor, "/")
                assert "(this one): listening" in page
                assert "silent for 1" in page
            finally:
                other.process.send_signal(signal.SIGCONT)

            async def is_well() -> bool:
                return await troubles_of(reactor.http_url) == []

            await until(is_well)


async def test_a_reactor_that_polls_is_named_by_the_others(
    app: App, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "PRESENCE_INTERVAL_S", 0.3)
    monkeypatch.setattr(listen, "CANARY_GRACE_S", 0.3)
    of_other = Recorder()
    async with (
        proxied(app.url) as proxy,
        app.running_reactor(of_other, listen_url=proxy.url) as other,
        app.running_reactor(recorder) as reactor,
    ):
        proxy.swallows_notifications = True
        proxy.reset()
        await of_other.wait_for(Polling)

        async def is_reported() -> bool:
            return found_in(
                await troubles_of(reactor.http_url), "polls the database: notifications do not arrive there"
            )

        await until(is_reported)
        [own] = await troubles_of(other.http_url)
        assert own.startswith("Notifications have not arrived for ")
        assert "REACTOR_LISTEN_URL" in own


def test_dead_reactors_are_not_listed_as_listening(app: App) -> None:
    app.conn.execute(
        "insert into reactor.instance (id, host, version, mode, seen_at) values"
        " (%s, 'dead', '0', 'listening', now() - interval '17 s'), (%s, 'alive', '0', 'listening', now())",
        (uuid4(), uuid4()),
    )
    for answer in (app.one("select reactor.status('1 minute')"), app.one("select reactor.live_summary('1 minute', 9)")):
        reactors: list[dict[str, Any]] = answer["reactors"]
        assert {each["host"]: each["mode"] for each in reactors} == {"dead": "silent", "alive": "listening"}
