"""An app in a separate process. It commits one job at a time and prints the time just before each COMMIT.

For each name on stdin, the process executes the statement `before`, then executes `enqueue` in a transaction. It takes
the monotonic time just before the COMMIT, and prints it after the COMMIT. Both statements may use %(name)s, a UUID.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg


class App:
    """Controls the app's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def commit(self, name: str) -> float:
        """Enqueue one job; return the monotonic time just before its COMMIT."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\n".encode())
        return float(await self._process.stdout.readline())


@asynccontextmanager
async def app(url: str, enqueue: str, before: str = "select") -> AsyncIterator[App]:
    """Start the app's process; end it at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, url, before, enqueue, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield App(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def _serve(url: str, before: str, enqueue: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.prepare_threshold = 0
        for line in sys.stdin:
            name = {"name": line.strip()}
            conn.execute(before.encode(), name)
            with conn.transaction():
                conn.execute(enqueue.encode(), name)
                before_commit = time.monotonic()
            print(before_commit, flush=True)  # noqa: T201  # read by the bench


if __name__ == "__main__":
    _serve(*sys.argv[1:])
