"""A hundred thousand forged notifications while work goes on: no row moves that needn't, and memory and the event loop
stay within bounds."""

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


class Tally(Recorder):
    """Only counts what comes by the hundred thousand: to keep and search it all would be the slowest part by far."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[type[Event]] = Counter()

    def __call__(self, event: Event) -> None:
        self.counted[type(event)] += 1
        if not isinstance(event, Notified | NotificationRejected | TimerFired | Swept):
            super().__call__(event)


class Lag:
    """How late the event loop came round to a task that asks for it every few milliseconds."""

    def __init__(self) -> None:
        self.seen_s: list[float] = []

    async def measure(self) -> None:
        while True:
            began = time.monotonic()
            await anyio.sleep(0.005)
            self.seen_s.append(time.monotonic() - began - 0.005)

    def percentile(self, share: float) -> float:
        return sorted(self.seen_s)[int(share * (len(self.seen_s) - 1))]


def flood(url: str, waiting: list[str], running: list[str]) -> None:
    """Notify of rows that aren't there, of the real ones with every wrong time, of garbage; each only once."""
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
async def test_a_hundred_thousand_forgeries_move_nothing_and_work_goes_on(app: App) -> None:
    recorder = Tally()
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
    heard = recorder.counted[Notified] + recorder.counted[NotificationRejected]
    figures = {
        "heard": heard,
        "took_s": round(took_s, 1),
        "grown_mib": round(grown_mib, 1),
        "loop_lag_p50_ms": round(1e3 * lag.percentile(0.5), 1),
        "loop_lag_p99_ms": round(1e3 * lag.percentile(0.99), 1),
        "reaction_max_s": round(max(lags.values()), 3),
    }
    print(json.dumps(figures))  # noqa: T201 - the figures, with -s
    # who can't keep up for ten seconds is given up by the server, for the queue's sake, and then looks at the rows
    assert heard >= FORGED or recorder.events_of(ListenerLost)
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
