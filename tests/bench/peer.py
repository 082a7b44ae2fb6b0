"""What a peer is: a queue of others' that does the same job, measured on the same server in the same run.

They move no quota and mark no source; what they do beside a handler that does nothing is theirs.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, LiteralString

from .app import App, app
from .raw import raw

_LOOK_EVERY_S = 0.02
_DUE_AFTER_S = 1.0

Playing = tuple[App, Callable[[], Awaitable[float]], Callable[[str], None]]


class Peer(ABC):
    """One of them: how it is made ready, fed and watched."""

    name: ClassVar[str]
    jobs: ClassVar[int]
    """How many it drains in a repeat: as many as it does in a second or five."""

    left: ClassVar[LiteralString]
    """Counts the jobs that aren't done."""

    has_process: ClassVar[bool] = False
    """Whether its worker has a process of its own already."""

    enqueue: ClassVar[str]
    """Enqueues one job."""

    @abstractmethod
    def why_not(self) -> str | None:
        """Return why it can't be measured here, None when it can."""

    @abstractmethod
    async def prepare(self, url: str) -> None:
        """Make its tables."""

    @abstractmethod
    async def fill(self, url: str, delays_s: list[float]) -> None:
        """Enqueue a job for each delay, together; 0: due at once."""

    @abstractmethod
    def working(self, url: str, started: Callable[[str, float], None]) -> Any:
        """Return a context within which a worker runs; it tells each job's name and its handler's first moment."""

    @asynccontextmanager
    async def reacting(self, url: str) -> AsyncIterator[Playing]:
        """Enter what the case of reaction needs."""
        began: asyncio.Queue[float] = asyncio.Queue()
        await self.prepare(url)
        async with self.working(url, lambda _job, at: began.put_nowait(at)), app(url, self.enqueue) as busy:
            yield busy, began.get, lambda _name: None

    async def drain(self, url: str, jobs: int) -> float:
        """Return how long it took from the first handler until the database showed that all was done."""
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
                await asyncio.sleep(_LOOK_EVERY_S)
            ended = time.monotonic()
        await conn.close()
        return ended - first[0]

    async def lateness(self, url: str, delays_s: list[float]) -> list[float]:
        """Return how late each of as many jobs was, each due after its delay and a second."""
        await self.prepare(url)
        all_late = asyncio.Event()
        since_epoch = time.time() - time.monotonic()  # the server reads this machine's clock
        due: dict[str, float] = {}
        at_of: dict[str, float] = {}

        def started(job: str, at: float) -> None:
            at_of[job] = at
            if len(at_of) == len(delays_s):
                all_late.set()

        async with self.working(url, started):
            await self.fill(url, [_DUE_AFTER_S + delay_s for delay_s in delays_s])
            conn = await raw(url)
            for job, due_at in await (await conn.execute(self.due)).fetchall():
                due[str(job)] = float(due_at) - since_epoch
            await conn.close()
            await all_late.wait()
        return [at_of[job] - due[job] for job in at_of]

    due: ClassVar[LiteralString]
    """Lists all jobs' names and due times in seconds since 1970."""
