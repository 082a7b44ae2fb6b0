"""A limited number of places, for calls that run at the same time. Urgent calls get a free place first."""

import asyncio
from collections import deque


class Slots:
    """Used in one event loop only."""

    def __init__(self, size: int) -> None:
        self._free = size
        # Invariant: while a place is free, no call waits.
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    async def acquire(self, *, is_urgent: bool) -> None:
        """Take a place, or wait until one is free."""
        if self._free:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        (self._urgent if is_urgent else self._others).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it got a place and was cancelled before it could run
                self.release()
            raise

    def release(self) -> None:
        """Give the place to the first waiting call."""
        for waiting in (self._urgent, self._others):
            while waiting:
                place = waiting.popleft()
                if not place.done():  # done: its call was cancelled
                    place.set_result(None)
                    return
        self._free += 1
