"""How soon the reactor acts, beside the least that psycopg could do on the same table in the same run.

    python tests/bench/punctuality.py [--repeats 3] [--events 200]

Starts a PostgreSQL of its own with default durability (fsync on), and an app in a process of its own. Three cases:

* reaction: from just before the app's COMMIT of a failed upload until its attempt starts; floor: a raw LISTEN, and the
  same claim of that one row, sent raw;
* retry: from when a row is due until its attempt starts; floor: sleep until due, then the same claim, sent raw;
* expiry: from a run's deadline until it is failed; no floor.

Prints medians and spreads in milliseconds, and the ratios. Figures of one run may be compared, no others.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from loguru import logger

from reactor.app import Reactor
from reactor.core.events import AttemptStarted, Event, Listening, RunExpired
from reactor.core.settings import Settings
from reactor.edge.embedded import EmbeddedPostgres
from reactor.edge.migrate import migrate
from reactor.edge.objects.base import Body
from reactor.edge.statements import CLAIM_UPLOADS

_GAP_S = 0.02
_RETRY_SPREAD_S = 4.0

_APP = """
import sys, time, psycopg
conn = psycopg.connect(sys.argv[1], autocommit=True)
conn.prepare_threshold = 0
for line in sys.stdin:
    user, number, digest = line.split()
    source = conn.execute(
        "insert into public.sources (user_id, content_hash, storage_status, byte_size)"
        " values (%s, %s, 'pending', 0) returning id", (user, number.rjust(64, "0"))).fetchone()[0]
    with conn.transaction():
        row = conn.execute(
            "insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size,"
            " temp_file_path) values (%s, %s, 'bench', %s, %s, 0, %s) returning id",
            (source, user, number, digest, number)).fetchone()[0]
        before_commit = time.monotonic()
    print(row, before_commit, flush=True)
"""


class NoStore:
    """Takes everything and keeps nothing."""

    name = "none"

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:  # noqa: ARG002  # a Protocol's
        body.read()
        return f"none://{bucket}/{key}"

    def check(self) -> None: ...

    def close(self) -> None: ...


class App:
    """The app's side, in another process: queues one failed upload at a time."""

    def __init__(self, process: asyncio.subprocess.Process, spool: Path) -> None:
        self._process = process
        self._spool = spool
        self._user = uuid4()

    async def fail_an_upload(self) -> tuple[UUID, float]:
        """Return the row's id, and the monotonic time just before its COMMIT."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        name = uuid4().hex
        (self._spool / name).touch()
        self._process.stdin.write(f"{self._user} {name} {sha256(b'').hexdigest()}\n".encode())
        row, before_commit = (await self._process.stdout.readline()).split()
        return UUID(row.decode()), float(before_commit)


class Stage:
    """A migrated database, a spool, and an app."""

    def __init__(self, url: str, spool: Path, app: App) -> None:
        self.url = url
        self.spool = spool
        self.app = app

    async def connect(self) -> psycopg.AsyncConnection:
        conn = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        conn.prepare_threshold = 0
        return conn

    @asynccontextmanager
    async def reacting(self, hear: Callable[[Event], None]) -> AsyncIterator[None]:
        """Run a reactor on the stage."""
        live = asyncio.Event()

        def listener(event: Event) -> None:
            if type(event) is Listening:
                live.set()
            hear(event)

        settings = Settings(
            database_url=self.url, store_url="file:///none", spools={"default": self.spool}, http_port=0
        )
        reactor = Reactor(settings, store=NoStore(), listener=listener)
        running = asyncio.create_task(reactor.run())
        await live.wait()
        try:
            yield
        finally:
            reactor.stop()
            await running


async def _claim(conn: psycopg.AsyncConnection, row_id: UUID | str) -> None:
    """Claim one row with nothing around it. Asked too early, the database says so: ask again."""
    rows: list[tuple[object, ...]] = []
    while not rows or rows[0][1] != "claimed":
        rows = await (await conn.execute(CLAIM_UPLOADS, ([row_id], uuid4(), "30 s"), binary=True)).fetchall()


async def reaction_floor(stage: Stage, events: int) -> list[float]:
    listening, claiming = await stage.connect(), await stage.connect()
    await listening.execute("listen reactor_uploads")
    started: asyncio.Queue[float] = asyncio.Queue()

    async def hear() -> None:
        async for notification in listening.notifies():
            await _claim(claiming, json.loads(notification.payload)["rows"][0][0])
            started.put_nowait(time.monotonic())

    hearing = asyncio.create_task(hear())
    lags = await _react(stage, events, started.get)
    hearing.cancel()
    await claiming.execute("delete from public.upload_queue")
    await listening.close()
    await claiming.close()
    return lags


async def reaction(stage: Stage, events: int) -> list[float]:
    started: asyncio.Queue[float] = asyncio.Queue()

    def hear(event: Event) -> None:
        if type(event) is AttemptStarted:
            started.put_nowait(time.monotonic())

    async with stage.reacting(hear):
        return await _react(stage, events, started.get)


async def _react(stage: Stage, events: int, started: Callable[[], Awaitable[float]]) -> list[float]:
    lags = []
    for _ in range(events):
        _, before_commit = await stage.app.fail_an_upload()
        lags.append(1000 * (await started() - before_commit))
        await asyncio.sleep(_GAP_S)
    return lags


async def _fail_later(stage: Stage, events: int) -> dict[UUID, float]:
    """Queue uploads that are due at random moments; return each with its due time on the monotonic clock."""
    conn = await stage.connect()
    chance = random.Random(1)  # a benchmark
    since_epoch = time.time() - time.monotonic()  # the server reads this machine's clock
    due = {}
    for _ in range(events):
        name, delay_s = uuid4().hex, 1.0 + chance.random() * _RETRY_SPREAD_S
        (stage.spool / name).touch()
        row = await (
            await conn.execute(
                "with s as (insert into public.sources (user_id, content_hash, storage_status, byte_size)"
                " values (%s, %s, 'pending', 0) returning id, user_id)"
                " insert into public.upload_queue (source_id, user_id, bucket, object_path, content_hash, byte_size,"
                " temp_file_path, next_retry_at) select id, user_id, 'bench', %s, %s, 0, %s,"
                " clock_timestamp() + make_interval(secs => %s) from s"
                " returning id, extract(epoch from next_retry_at)::float8",
                (uuid4(), name.rjust(64, "0"), name, sha256(b"").hexdigest(), name, delay_s),
            )
        ).fetchone()
        assert row is not None
        due[row[0]] = row[1] - since_epoch
    await conn.close()
    return due


async def retry_floor(stage: Stage, events: int) -> list[float]:
    due = await _fail_later(stage, events)
    claiming = await stage.connect()
    lags = []
    for row_id, at in sorted(due.items(), key=lambda item: item[1]):
        await asyncio.sleep(at - time.monotonic())
        await _claim(claiming, row_id)
        lags.append(1000 * (time.monotonic() - at))
    await claiming.execute("delete from public.upload_queue")
    await claiming.close()
    return lags


async def retry(stage: Stage, events: int) -> list[float]:
    started: dict[UUID, float] = {}
    all_started = asyncio.Event()

    def hear(event: Event) -> None:
        if type(event) is AttemptStarted:
            started[event.upload_id] = time.monotonic()
            if len(started) == events:
                all_started.set()

    async with stage.reacting(hear):
        due = await _fail_later(stage, events)
        await all_started.wait()
    return [1000 * (started[row_id] - at) for row_id, at in due.items()]


async def expiry(stage: Stage, events: int) -> list[float]:
    late: list[float] = []
    all_failed = asyncio.Event()

    def hear(event: Event) -> None:
        if type(event) is RunExpired:
            late.append(1000 * event.late_s)
            if len(late) == events:
                all_failed.set()

    conn = await stage.connect()
    async with stage.reacting(hear):
        for number in range(events):
            await conn.execute(
                "with s as (insert into public.sources (user_id, content_hash, byte_size) values (%s, %s, 0)"
                " returning id, user_id)"
                " insert into public.interpretation_runs (source_id, user_id, status, timeout_at)"
                " select id, user_id, 'running', clock_timestamp() + make_interval(secs => %s) from s",
                (uuid4(), f"{number:064x}", 1.0 + _RETRY_SPREAD_S * number / events),
            )
        await all_failed.wait()
    await conn.close()
    return late


async def measure(url: str, home: Path, repeats: int, events: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _APP, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    stage = Stage(url, home, App(process, home))
    for repeat in range(repeats):
        for name, floor, ours in (("reaction", reaction_floor, reaction), ("retry", retry_floor, retry)):
            _report(f"{name} {repeat + 1}", await ours(stage, events), await floor(stage, events))
        _report(f"expiry {repeat + 1}", await expiry(stage, events), None)
    process.terminate()
    await process.wait()


def _report(name: str, ours_ms: list[float], floor_ms: list[float] | None) -> None:
    line = f"{name:12} {_figures(ours_ms)}"
    if floor_ms is not None:
        ours, floor = statistics.quantiles(ours_ms, n=20), statistics.quantiles(floor_ms, n=20)
        line += f"   floor {_figures(floor_ms)}   ratio p50 {ours[9] / floor[9]:.2f}, p95 {ours[18] / floor[18]:.2f}"
    print(line, flush=True)  # noqa: T201  # a benchmark's output


def _figures(values_ms: list[float]) -> str:
    cuts = statistics.quantiles(values_ms, n=20)
    return f"p50 {cuts[9]:.2f} p95 {cuts[18]:.2f} min {min(values_ms):.2f} max {max(values_ms):.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--events", type=int, default=200)
    arguments = parser.parse_args()
    logger.remove()
    with tempfile.TemporaryDirectory(prefix="reactor-bench-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        spool = home / "spool"
        spool.mkdir()
        with EmbeddedPostgres(home / "postgres") as server:
            migrate(server.url)
            asyncio.run(measure(server.url, spool, arguments.repeats, arguments.events))


if __name__ == "__main__":
    main()
