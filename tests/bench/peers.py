"""The peers, each with its fastest settings. pip install 'pgreactor[bench]' installs all but graphile-worker."""

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

from .graphile import GraphileWorker
from .peer import Peer
from .raw import raw


class PgQueuer(Peer):
    name = "pgqueuer"
    jobs = 20_000
    left = "select count(*) from pgqueuer"
    enqueue = (
        "with made as (insert into pgqueuer (priority, entrypoint, payload, execute_after, status)"
        " values (0, 'noop', null, now(), 'queued') returning id, priority)"
        " insert into pgqueuer_log (job_id, status, entrypoint, priority)"
        " select id, 'queued', 'noop', priority from made"
    )
    due = "select id, extract(epoch from execute_after)::float8 from pgqueuer"

    def reason_missing(self) -> str | None:
        return _missing("pgqueuer", "asyncpg")

    async def _connect(self, url: str) -> tuple[Any, Any, Any]:
        asyncpg, *modules = map(importlib.import_module, ("asyncpg", "pgqueuer.queries", "pgqueuer.db"))
        return await asyncpg.connect(url), *modules

    async def prepare(self, url: str) -> None:
        conn, queries, db = await self._connect(url)
        await queries.Queries(db.AsyncpgDriver(conn)).install()
        await conn.close()

    async def fill(self, url: str, delays_s: list[float]) -> None:
        conn, queries, db = await self._connect(url)
        count = len(delays_s)
        due = [timedelta(seconds=delay_s) for delay_s in delays_s]
        await queries.Queries(db.AsyncpgDriver(conn)).enqueue(["noop"] * count, [None] * count, [0] * count, due)
        await conn.close()

    @asynccontextmanager
    async def working(self, url: str, started: Callable[[str, float], None]) -> AsyncIterator[None]:
        asyncpg, pgqueuer = importlib.import_module("asyncpg"), importlib.import_module("pgqueuer")
        conn = await asyncpg.connect(url)
        queue = pgqueuer.PgQueuer.from_asyncpg_connection(conn)

        async def noop(job: Any) -> None:
            started(str(job.id), time.monotonic())

        queue.entrypoint("noop")(noop)
        running = asyncio.create_task(queue.run(batch_size=500))
        await asyncio.sleep(0.5)  # pgqueuer doesn't report when it listens
        yield
        queue.shutdown.set()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(running, 10)
        await conn.close()


class Procrastinate(Peer):
    name = "procrastinate"
    jobs = 500
    left = "select count(*) from procrastinate_jobs where status <> 'succeeded'"
    enqueue = (
        "select procrastinate_defer_jobs_v1(array[row('default', 'noop', 0, null, null, '{}', null)"
        "::procrastinate_job_to_defer_v1])"
    )
    due = "select id, extract(epoch from scheduled_at)::float8 from procrastinate_jobs"

    def reason_missing(self) -> str | None:
        return _missing("procrastinate")

    def _app(self, url: str) -> Any:
        procrastinate = importlib.import_module("procrastinate")
        return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url))

    async def prepare(self, url: str) -> None:
        async with self._app(url).open_async() as opened:
            await opened.schema_manager.apply_schema_async()

    async def fill(self, url: str, delays_s: list[float]) -> None:
        conn = await raw(url)
        await conn.execute(
            "select procrastinate_defer_jobs_v1(array_agg(row('default', 'noop', 0, null, null, '{}',"
            " clock_timestamp() + make_interval(secs => d))::procrastinate_job_to_defer_v1))"
            " from unnest(%s::float8[]) as d",
            (delays_s,),
        )
        await conn.close()

    @asynccontextmanager
    async def working(self, url: str, started: Callable[[str, float], None]) -> AsyncIterator[None]:
        async with self._app(url).open_async() as opened:

            async def noop(context: Any) -> None:
                started(str(context.job.id), time.monotonic())

            opened.task(name="noop", pass_context=True)(noop)
            running = asyncio.create_task(opened.run_worker_async(concurrency=30, install_signal_handlers=False))
            await asyncio.sleep(0.5)  # procrastinate doesn't report when it listens
            yield
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


def _missing(*packages: str) -> str | None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            return f"{package} isn't installed: pip install 'pgreactor[bench]'"
    return None


GRAPHILE = GraphileWorker()
PEERS: list[Peer] = [PgQueuer(), Procrastinate(), GRAPHILE]
