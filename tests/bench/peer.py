"""Peers: other job queues on PostgreSQL. In the rest of the project, a peer of a reactor is another reactor.

Peers run on the same server in the same run, with a handler that does nothing. Unlike the reactor, they update neither
usage nor sources.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, LiteralString

from .app import App, app
from .raw import raw

_POLL_S = 0.02
_DUE_AFTER_S = 1.0

Session = tuple[App, Callable[[], Awaitable[float]], Callable[[str], None]]


class Peer(ABC):
    """One job queue: how to set up, fill, run and measure it."""

    name: ClassVar[str]
    jobs: ClassVar[int]
    """Number of jobs of a drain, chosen so that the drain takes a few seconds."""

    left: ClassVar[LiteralString]
    """Statement that counts the unfinished jobs."""

    has_process: ClassVar[bool] = False
    """True if the peer's worker always runs in a separate process."""

    enqueue: ClassVar[str]
    """Statement that enqueues one job."""

    @abstractmethod
    def reason_missing(self) -> str | None:
        """Return why the peer can't be measured here; None if it can be measured."""

    @abstractmethod
    async def prepare(self, url: str) -> None:
        """Create the peer's tables."""

    @abstractmethod
    async def fill(self, url: str, delays_s: list[float]) -> None:
        """Enqueue a job for each delay, in one call. A job with the delay 0 is due immediately."""

    @abstractmethod
    def working(self, url: str, started: Callable[[str, float], None]) -> Any:
        """Run a worker during the block; the worker calls `started(job, monotonic time)` when a handler starts."""

    @asynccontextmanager
    async def connected_app(self, url: str) -> AsyncIterator[Session]:
        """Start the app and a worker; yield the app, `started()`, and a `prepare(name)` that does nothing.

        `started()` waits for the next start of a job and returns its monotonic time.
        """
        began: asyncio.Queue[float] = asyncio.Queue()
        await self.prepare(url)
        async with self.working(url, lambda _job, at: began.put_nowait(at)), app(url, self.enqueue) as app_process:
            yield app_process, began.get, lambda _name: None

    async def drain(self, url: str, jobs: int) -> float:
        """Return the seconds from the start of the first handler until the database contains no unfinished job."""
        await self.prepare(url)
        await self.fill(url, [0.0] * jobs)
        first: list[float] = []

        def started(_job: str, at: float) -> None:
            if not first:
                first.append(at)

        conn = await raw(url)
        await conn.execute("vacuum analyze")
        await conn.execute("checkpoint")
        async with self.working(url, started):
            while True:
                row = await (await conn.execute(self.left)).fetchone()
                if row == (0,):
                    break
                await asyncio.sleep(_POLL_S)
            ended = time.monotonic()
        await conn.close()
        return ended - first[0]

    async def lateness(self, url: str, delays_s: list[float]) -> list[float]:
        """Enqueue a job for each delay, due 1 s + delay later; return how many seconds late each job started."""
        await self.prepare(url)
        all_started = asyncio.Event()
        since_epoch = time.time() - time.monotonic()  # the server uses the same clock, because it runs on this machine
        due: dict[str, float] = {}
        at_of: dict[str, float] = {}

        def started(job: str, at: float) -> None:
            at_of[job] = at
            if len(at_of) == len(delays_s):
                all_started.set()

        async with self.working(url, started):
            await self.fill(url, [_DUE_AFTER_S + delay_s for delay_s in delays_s])
            conn = await raw(url)
            for job, due_at in await (await conn.execute(self.due)).fetchall():
                due[str(job)] = float(due_at) - since_epoch
            await conn.close()
            await all_started.wait()
        return [at_of[job] - due[job] for job in at_of]

    due: ClassVar[LiteralString]
    """Statement that returns the id of each job and its due time in seconds since 1970."""
