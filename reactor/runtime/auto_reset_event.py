"""A wake-up call that isn't lost: set it at any time, and whoever waits next, or waits already, goes on."""

import asyncio


class Wakeup:
    """One waiter, any number of callers. Calls that come before the wait count, many as one."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._is_set = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return after the next call, or at once when there was one since the last return."""
        if not self._is_set:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_set = False
