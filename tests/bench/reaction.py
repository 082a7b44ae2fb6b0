"""Measure the time from just before the app's COMMIT of a failed upload to the start of the upload's attempt.

The reactor is idle, or the table and the wheel hold many rows that are due later. The floor is the same measurement
without a reactor: LISTEN on one plain connection, the claim on another.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

from reactor.core.events import AttemptsStarted, Event

from .app import App, app
from .peers import PEERS
from .raw import raw
from .report import Report, percentiles_ms
from .running_reactor import BEFORE, ENQUEUE, claim_one, running_reactor
from .server import BenchServer, queue

_CASE = "reaction"
_GAP_S = 0.02
_WARM_UP = 20

Started = Callable[[], Awaitable[float]]
Session = tuple[App, Started, Callable[[str], None]]
Listening = Callable[[str], AbstractAsyncContextManager[Session]]


def reaction(bench: BenchServer, report: Report, repeats: int) -> str | None:
    """Measure COMMIT to start of attempt, with 0, 100 000 and 1 000 000 rows that are due later."""
    events = 60 if bench.quick else 200
    backlogs = (0, 100_000) if bench.quick else (0, 100_000, 1_000_000)
    for waiting in backlogs[1:]:
        _make_template(bench, waiting)
    for _ in range(repeats):
        for waiting in backlogs:
            for name, listening in (("floor", _floor), ("reactor", partial(_reactor, bench))):
                with bench.database(_template(waiting)) as url:
                    lags = asyncio.run(_measure(url, listening, events))
                report.add(_CASE, _variant(name, waiting), **percentiles_ms(lags))
        for peer in PEERS:
            if (reason_missing := peer.reason_missing()) is not None:
                continue
            with bench.database("template1") as url:
                lags = asyncio.run(_measure(url, peer.connected_app, events))
            report.add(_CASE, peer.name, **percentiles_ms(lags))
    for peer in PEERS:
        if (reason_missing := peer.reason_missing()) is not None:
            report.note(_CASE, f"{peer.name} skipped: {reason_missing}")
    for waiting in backlogs:
        ours, floor = _variant("reactor", waiting), _variant("floor", waiting)
        beside = f" with {waiting:,} waiting" if waiting else ", idle"
        report.goal(
            _CASE,
            f"p50{beside}, as a multiple of the floor's",
            report.ratio(_CASE, "p50_ms", ours, floor),
            at_most=1.25,
        )
        report.goal(
            _CASE, f"p95{beside}, as a multiple of the floor's", report.ratio(_CASE, "p95_ms", ours, floor), at_most=1.5
        )
    most = backlogs[-1]
    of_empty = report.ratio(_CASE, "p50_ms", _variant("reactor", most), _variant("reactor", 0))
    report.goal(_CASE, f"p50 with {most:,} waiting, as a multiple of the idle reactor's", of_empty, at_most=1.15)
    return _variant("floor", 0)


def _variant(name: str, waiting: int) -> str:
    return f"{name}, {waiting:,} waiting" if waiting else name


def _template(waiting: int) -> str:
    return f"waiting_{waiting}" if waiting else "migrated"


def _make_template(bench: BenchServer, waiting: int) -> None:
    """Make a database with `waiting` uploads that are due after the measurement but within the wheel's horizon."""
    bench.make_template(_template(waiting), lambda url: queue(url, waiting, None, due_in="14 min"))


async def _measure(url: str, listening: Listening, events: int) -> list[float]:
    lags = []
    async with listening(url) as (app_process, started, prepare):
        for number in range(_WARM_UP + events):
            name = str(uuid4())
            prepare(name)
            before_commit = await app_process.commit(name)
            lag = await started() - before_commit
            if number >= _WARM_UP:
                lags.append(lag)
            await asyncio.sleep(_GAP_S)
    return lags


@asynccontextmanager
async def _floor(url: str) -> AsyncIterator[Session]:
    listening, claiming = await raw(url), await raw(url)
    await listening.execute("listen reactor_uploads")
    started: asyncio.Queue[float] = asyncio.Queue()

    async def read() -> None:
        async for notification in listening.notifies():
            await claim_one(claiming, json.loads(notification.payload)["rows"][0][0])
            started.put_nowait(time.monotonic())

    reading = asyncio.create_task(read())
    async with app(url, ENQUEUE, BEFORE) as app_process:
        yield app_process, started.get, lambda _name: None
    reading.cancel()
    await asyncio.wait([reading])
    await listening.close()
    await claiming.close()


@asynccontextmanager
async def _reactor(bench: BenchServer, url: str) -> AsyncIterator[Session]:
    started: asyncio.Queue[float] = asyncio.Queue()

    def on_event(event: Event) -> None:
        if type(event) is AttemptsStarted:
            for _ in event.attempts:
                started.put_nowait(time.monotonic())

    async with running_reactor(bench, url, on_event) as spool, app(url, ENQUEUE, BEFORE) as app_process:
        yield app_process, started.get, lambda name: Path(spool, name).touch()
