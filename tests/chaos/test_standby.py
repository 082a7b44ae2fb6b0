"""The name in the URL leads to a hot standby for a while: stale DNS, a failover, a wrong entry.

A standby answers reads. A reactor that keeps such a connection claims nothing, and looks well.
"""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from anyio import fail_after, sleep, to_thread
from support.app import App, open_app
from support.chaos.harness import audited_database, figure
from support.process import fetch, reactor, settings_of
from support.recorder import Recorder
from support.servers.postgres import Standby, own_server, standby_of
from support.servers.proxy import Proxy, proxied

from reactor.app import Reactor
from reactor.core.events import AttemptSettled, DatabaseLost, Notified
from reactor.core.model import Verdict
from reactor.embedded.server import EmbeddedPostgres
from reactor.engine import readiness

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

RESUMES_WITHIN_S = 5.0
STANDBY = "the server takes no writes: it is a standby"


@pytest.fixture(scope="module")
def primary() -> Iterator[EmbeddedPostgres]:
    with own_server(wal_level="replica") as server:
        yield server


@pytest.fixture(scope="module")
def standby(primary: EmbeddedPostgres) -> Iterator[Standby]:
    with standby_of(primary) as standby:
        yield standby


@pytest.fixture
def app(primary: EmbeddedPostgres, standby: Standby, tmp_path: Path) -> Iterator[App]:
    """An app on the primary; the standby has the same database."""
    with audited_database(primary.url) as url, open_app(url, tmp_path) as app:
        wait_for_database(standby.url_of(urlsplit(url).path[1:]))
        yield app


def wait_for_database(url: str) -> None:
    give_up = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(url) as conn:
                conn.execute("select from reactor.migration where name like '%worker_sweep_uploads%'").fetchone()
                return
        except psycopg.Error:
            assert time.monotonic() < give_up
            time.sleep(0.05)


@asynccontextmanager
async def through_proxy(app: App, recorder: Recorder) -> AsyncIterator[tuple[Proxy, Reactor]]:
    """Run a reactor whose URL leads through a proxy to the primary."""
    async with proxied(app.url) as proxy, app.running_reactor(recorder, database_url=proxy.url) as running:
        yield proxy, running


def sessions(url: str) -> int:
    """Return the number of the reactor's sessions on this server."""
    with psycopg.connect(url, autocommit=True) as conn:
        counted = conn.execute(
            "select count(*) from pg_stat_activity where application_name like 'reactor%'"
        ).fetchone()
    assert counted is not None
    return int(counted[0])


async def test_claims_resume_when_the_name_leads_to_the_primary_again(
    app: App, standby: Standby, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times: the connections break, the new ones lead to the standby, then the name is right again."""
    monkeypatch.setattr(readiness, "UNANSWERED_S", 2.0)
    there = standby.url_of(urlsplit(app.url).path[1:])
    slowest_s = 0.0
    async with through_proxy(app, recorder) as (proxy, running):
        for _ in range(5):
            recorder.skip_recorded()
            uploads = app.queue_uploads(5, next_retry_at=app.one("select clock_timestamp() + interval '0.5 s'"))
            await recorder.wait_for(Notified)
            proxy.lead_to(there)
            proxy.reset()
            run = app.begin_run(timeout_at="2000-01-01")
            await recorder.wait_for(DatabaseLost, lambda lost: lost.doing == "claim uploads" and STANDBY in lost.reason)
            with fail_after(30):
                while not any(STANDBY in reason for reason in running.not_ready()):  # noqa: ASYNC110  # time passes
                    await sleep(0.05)
            assert STANDBY in running.not_ready()[0]
            page = json.loads((await to_thread.run_sync(fetch, running.http_url + "/api/live"))[1])
            assert page["troubles"][0].startswith(f"The {STANDBY.removeprefix('the ')} (for "), page["troubles"]
            proxy.lead_to(app.url)
            began = time.monotonic()
            await recorder.wait_for_all(5, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
            slowest_s = max(slowest_s, time.monotonic() - began)
            with fail_after(10):
                while running.not_ready() or app.run(run)["status"] != "failed":  # noqa: ASYNC110  # no such event
                    await sleep(0.05)
            assert await to_thread.run_sync(sessions, there) == 0
            for upload in uploads:
                app.assert_stored(upload)
        settled = [event.verdict for event in recorder.events_of(AttemptSettled)]
        assert settled == [Verdict.STORED] * 25
    figure("standby: slowest first claims after the name is right again, s", slowest_s)
    assert slowest_s <= RESUMES_WITHIN_S


def test_commands_that_need_a_primary_say_so(app: App, standby: Standby) -> None:
    there = settings_of(app, DATABASE_URL=standby.url_of(urlsplit(app.url).path[1:]))
    for command in ("run", "reconcile", "migrate"):
        done = reactor(command, env=there)
        assert done.returncode == 1
        [line] = [line for line in done.stderr.splitlines() if line.startswith("reactor: ")]
        assert STANDBY in line
    done = reactor("status", env=there)
    assert done.returncode == 0, done.stderr
