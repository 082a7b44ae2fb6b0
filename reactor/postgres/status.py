"""Reads reactor.status() no more often than needed: it counts every waiting upload.

However long the queue is, scrapes cost the database at most a fiftieth of one connection's time, until one answer takes
longer than about a second: no figure is ever older than a minute.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres import statements
from reactor.postgres.admin import FULLEST_USERS
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock

_SCRAPED_AGE_S = 5.0
_PUSHED_AGE_S = 15.0
_AGE_PER_DURATION = 50.0
"""An answer is reused for at least this many times as long as its query took."""
_MAX_AGE_S = 60.0

Figures = dict[str, Any]


class StatusQuery:
    """Reads the figures, and passes each result on."""

    def __init__(
        self, database: QueryRunner, clock: Clock, *, heartbeat_timeout_s: float, on_result: Callable[[Figures], None]
    ) -> None:
        """`on_result` gets the figures of every query; an empty dict when the database does not answer `refresh`."""
        self._database = database
        self._clock = clock
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)
        self._on_result = on_result
        self._fresh_until = float("-inf")

    async def ask(self) -> Figures:
        """Return the current figures. Raises DatabaseUnavailable."""
        began_at = self._clock.now()
        [(figures,)] = await self._database.call(statements.STATUS, (self._heartbeat_timeout,))
        now = self._clock.now()
        self._fresh_until = now + max(_SCRAPED_AGE_S, min(_AGE_PER_DURATION * (now - began_at), _MAX_AGE_S))
        self._on_result(figures)
        return dict(figures)

    async def ask_with_users(self) -> Figures:
        """Return the current figures, and under `users` the users closest to a limit. Raises DatabaseUnavailable."""
        figures = await self.ask()
        [(users,)] = await self._database.call(statements.FULLEST_USERS, (FULLEST_USERS,))
        return figures | {"users": users}

    async def refresh(self) -> None:
        """Query again if the last answer is older than 5 s, and than its cost allows."""
        if self._clock.now() > self._fresh_until:
            try:
                await self.ask()
            except DatabaseUnavailable:
                self._on_result({})

    async def keep_fresh(self) -> None:
        """Refresh every 15 s, for metrics that are pushed and never scraped. Never returns."""
        while True:
            await self.refresh()
            await self._clock.sleep(_PUSHED_AGE_S)
