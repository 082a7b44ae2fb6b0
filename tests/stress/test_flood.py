"""100 000 forged notifications during normal work change no row, and memory and event loop lag stay bounded."""

import json
import resource
import time
from collections import Counter

import anyio
import psycopg
import pytest
from support.app import App
from support.recorder import Recorder

from reactor.core.events import (
    AttemptSettled,
    AttemptStarted,
    Event,
    ListenerLost,
    NotificationRejected,
    Notified,
    RunExpired,
    Swept,
    TimerFired,
)
from reactor.core.model import Verdict

FORGED = 100_000
_BATCH = 5_000


class CountingRecorder(Recorder):
    """Counts the frequent events without keeping them, because searching 100 000 events would be too slow."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[type[Event]] = Counter()

    def __call__(self, event: Event) -> None:
        self.counts[type(event)] += 1
        if not isinstance(event, Notified | NotificationRejected | TimerFired | Swept):
            super().__call__(event)


class Lag:
    """Measures the event loop's lag: the delay with which a task wakes after a sleep of 5 ms."""

    def __init__(self) -> None:
        self.delays_s: list[float] = []

    async def measure(self) -> None:
        while True:
            began = time.monotonic()
            await anyio.sleep(0.005)
            self.delays_s.append(time.monotonic() - began - 0.005)

    def percentile(self, share: float) -> float:
        return sorted(self.delays_s)[int(share * (len(self.delays_s) - 1))]


def flood(url: str, waiting: list[str], running: list[str]) -> None:
    """Send notifications about missing rows, about real rows with wrong times, and some that can't be decoded.

    Each payload is unique.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        for first in range(0, FORGED, _BATCH):
            conn.execute(
                "select pg_notify(case n %% 2 when 0 then 'reactor_uploads' else 'reactor_runs' end,"
                ' case n %% 5 when 0 then \'{"v":1,"at":\' || n || \',"rows":[["\''
                "                     || replace(gen_random_uuid()::text, '-', '') || '\",1,0]]}'"
                '             when 1 then \'{"v":1,"at":\' || n || \',"rows":[["\''
                "                     || (%s::text[])[1 + n %% 20] || '\",1,0]]}'"
                '             when 2 then \'{"v":1,"at":\' || n || \',"rows":[["\''
                "                     || (%s::text[])[1 + n %% 20] || '\",1,' || n || '000]]}'"
                "             when 3 then 'garbage ' || n"
                "             else '{\"v\":1,\"at\":' || n || ',\"rows\":[[\"' || repeat('0', 32) || '\",1,0]]}' end)"
                " from generate_series(%s::int, %s::int) as n",
                (waiting, running, first, first + _BATCH - 1),
            )


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_hundred_thousand_forged_notifications_change_nothing_and_work_continues(app: App) -> None:
    recorder = CountingRecorder()
    waiting = app.queue_uploads(20, next_retry_at="2100-01-01")
    runs = [app.begin_run(timeout_at="2100-01-01", heartbeat_timeout="1 year") for _ in range(20)]
    ids = [upload.id.hex for upload in waiting], [run.hex for run in runs]
    async with app.running_reactor(recorder), anyio.create_task_group() as tasks:
        lag = Lag()
        tasks.start_soon(lag.measure)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        async with anyio.create_task_group() as flooding:
            flooding.start_soon(anyio.to_thread.run_sync, flood, app.url, *ids)
            uploads = []
            for _ in range(20):
                uploads += app.queue_uploads(2)
                await recorder.wait_for(AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
        await recorder.wait_for_all(20, AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
        [last] = app.queue_uploads()
        await recorder.wait_for(AttemptSettled, lambda settled: settled.upload_id == last.id, within_s=60)
        took_s = time.monotonic() - began
        tasks.cancel_scope.cancel()
        grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    lags = {event.upload_id: event.lag_s for event in recorder.events_of(AttemptStarted)}
    received = recorder.counts[Notified] + recorder.counts[NotificationRejected]
    figures = {
        "received": received,
        "took_s": round(took_s, 1),
        "grown_mib": round(grown_mib, 1),
        "loop_lag_p50_ms": round(1e3 * lag.percentile(0.5), 1),
        "loop_lag_p99_ms": round(1e3 * lag.percentile(0.99), 1),
        "reaction_max_s": round(max(lags.values()), 3),
    }
    print(json.dumps(figures))  # noqa: T201  # shown by pytest -s
    # the server disconnects a listener that reads too slowly for 10 s; the reactor reconnects and sweeps
    assert received >= FORGED or recorder.events_of(ListenerLost)
    assert recorder.events_of(RunExpired) == []
    assert {upload.id for upload in [*uploads, last]} == set(lags)
    for upload in waiting:
        row = app.row(upload)
        assert row is not None
        assert (row["status"], row["retry_count"], row["claim_count"]) == ("failed", 0, 0)
    assert {app.run(run)["status"] for run in runs} == {"running"}
    for upload in [*uploads, last]:
        app.assert_stored(upload)
    assert grown_mib < 50
    assert lag.percentile(0.99) < 0.5
