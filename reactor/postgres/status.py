"""Reads reactor.status() and reuses the answer for 5 to 60 s, because reactor.status() counts every waiting upload.

So scrapes take at most a fiftieth of one connection's time. They take more if reactor.status() needs more than 1.2 s,
because an answer is reused for at most a minute.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from reactor.core.errors import DatabaseFailure
from reactor.postgres import statements
from reactor.postgres.admin import FULLEST_USERS
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock

_SCRAPED_AGE_S = 5.0
_PUSHED_AGE_S = 15.0
_AGE_PER_DURATION = 50.0
"""An answer is reused for at least this multiple of its query's duration, up to `_MAX_AGE_S`."""
_MAX_AGE_S = 60.0

Figures = dict[str, Any]


class StatusQuery:
    """Reads the figures, and passes them to `on_result`."""

    def __init__(
        self, database: QueryRunner, clock: Clock, *, heartbeat_timeout_s: float, on_result: Callable[[Figures], None]
    ) -> None:
        """`on_result` is called with the figures of each query, and with {} when `refresh` gets no answer."""
        self._database = database
        self._clock = clock
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)
        self._on_result = on_result
        self._fresh_until = float("-inf")

    async def ask(self) -> Figures:
        """Return the current figures. Raises a DatabaseFailure."""
        began_at = self._clock.now()
        [(figures,)] = await self._database.call(statements.STATUS, (self._heartbeat_timeout,))
        now = self._clock.now()
        self._fresh_until = now + max(_SCRAPED_AGE_S, min(_AGE_PER_DURATION * (now - began_at), _MAX_AGE_S))
        self._on_result(figures)
        return dict(figures)

    async def ask_with_users(self) -> Figures:
        """Return the current figures; `users` has the users closest to a limit. Raises a DatabaseFailure."""
        figures = await self.ask()
        [(users,)] = await self._database.call(statements.FULLEST_USERS, (FULLEST_USERS,))
        return figures | {"users": users}

    async def refresh(self) -> None:
        """Query the figures, unless the last answer may still be reused."""
        if self._clock.now() > self._fresh_until:
            try:
                await self.ask()
            except DatabaseFailure:
                self._on_result({})

    async def keep_fresh(self) -> None:
        """Refresh every 15 s, for metrics that are pushed to a collector. Never returns."""
        while True:
            await self.refresh()
            await self._clock.sleep(_PUSHED_AGE_S)
