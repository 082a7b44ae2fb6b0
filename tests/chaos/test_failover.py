"""After a failover, reactors and app connect to the promoted standby, and nothing is lost.

The URL of reactors and app lists both hosts. The app's commits wait for the standby, so the standby has every
acknowledged commit.
"""

import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.chaos.db_audit import connection_to
from support.chaos.final_check import check, folder_objects
from support.chaos.harness import Fleet, figure, fleet, open_harness
from support.chaos.load import loading
from support.servers.postgres import own_server, standby_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def test_a_failover_loses_nothing_and_work_continues_within_ten_seconds(tmp_path: Path) -> None:
    with (
        own_server(synchronous_standby_names="*", synchronous_commit="local", wal_level="replica") as primary,
        standby_of(primary) as standby,
        open_harness(tmp_path, primary) as harness,
        fleet(harness) as reactors,
    ):
        database = urlsplit(harness.url).path
        one, other = urlsplit(harness.url).netloc, urlsplit(standby.url_of("x")).netloc.rpartition("@")[2]
        either = f"postgresql://{one},{other}{database}?target_session_attrs=read-write"
        load = harness.load(either)
        _start(reactors, either)
        with loading(load):
            load.wait_for(50)
            primary.stop(signal.SIGKILL)
            standby.promote()
            _make_asynchronous(standby.url_of("postgres"))
            promoted = time.monotonic()
            load.wait_for(1)
            harness.url = standby.url_of(database[1:])
            harness.wait_for_next_stored()
            found_s = time.monotonic() - promoted
            load.wait_for(50)
        findings = check(harness.url, harness.spool, folder_objects(harness.store), load.history)
        figure("failover: first upload stored after the promotion, s", found_s)
        reactors.assert_sound()
        assert findings.problems == []
        assert findings.dead == 0
        assert found_s <= 10.0
        harness.url = primary.start()  # so that its database can be dropped


def _start(reactors: Fleet, url: str) -> None:
    for run in [reactors.start(DATABASE_URL=url), reactors.start(DATABASE_URL=url)]:
        run.wait_until_ready()


def _make_asynchronous(url: str) -> None:
    """Let the new primary commit without a standby, because it has none."""
    with connection_to(url) as conn:
        conn.execute("alter system set synchronous_standby_names = ''")
        conn.execute("select pg_reload_conf()")
