"""A wake-up call that isn't lost: set it at any time, and whoever waits next, or waits already, goes on."""

from anyio import Event


class Wakeup:
    """One waiter, any number of callers. Calls that come before the wait count, many as one."""

    def __init__(self) -> None:
        self._event = Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Return after the next call, or at once when there was one since the last return."""
        await self._event.wait()
        self._event = Event()
