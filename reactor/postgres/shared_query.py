"""A query that one task runs for all callers, one at a time. Callers wait for its end for a limited time.

A started query can't be cancelled, and a silent server doesn't end it for half a minute: a page or a scrape must not
wait for that.
"""

from collections.abc import Awaitable, Callable

from anyio import Event

from reactor.runtime.clock import TICKS_PER_S, Clock


class SharedQuery:
    """Runs `query` when a caller requests it. `query` handles its own errors."""

    def __init__(self, query: Callable[[], Awaitable[None]], clock: Clock) -> None:
        self._query = query
        self._clock = clock
        # Invariant: _ended <= _begun <= _wanted <= _begun + 1, all numbers of queries
        self._wanted = self._begun = self._ended = 0
        self._has_request = Event()
        self._has_ended = Event()

    async def run(self) -> None:
        """Run the requested queries. Never returns."""
        while True:
            while self._wanted == self._begun:
                self._has_request = Event()
                await self._has_request.wait()
            self._begun += 1
            await self._query()
            self._ended = self._begun
            self._has_ended.set()
            self._has_ended = Event()

    def request(self) -> int:
        """Request a query that begins after this call. Return its number."""
        self._wanted = self._begun + 1
        self._has_request.set()
        return self._wanted

    async def ended(self, number: int, *, within_s: float) -> bool:
        """Wait until the query with this number has ended, for `within_s` at most. Return whether it has ended."""
        give_up_at = self._clock.now() + within_s
        while self._ended < number and self._clock.now() < give_up_at:
            has_ended = self._has_ended
            with self._clock.alarm(round(give_up_at * TICKS_PER_S) + 1):
                await has_ended.wait()
        return self._ended >= number
