"""What reactor.status() says of the database, asked for no more often than needed: it counts what waits.

However long that is, asking for metrics costs the database no more than a fiftieth of one connection's time, until
an answer takes longer than a second: no figure is ever older than a minute.
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
_REST = 50.0
"""How many times as long as an answer took it serves, at least."""
_OLDEST_S = 60.0

Figures = dict[str, Any]


class StatusQuery:
    """Asks for the figures, and tells who wants to know."""

    def __init__(
        self, database: QueryRunner, clock: Clock, *, heartbeat_timeout_s: float, hear: Callable[[Figures], None]
    ) -> None:
        self._database = database
        self._clock = clock
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)
        self._hear = hear
        self._asked_at = float("-inf")
        self._took_s = 0.0

    async def ask(self) -> Figures:
        """Return the figures as they are now. Raises DatabaseUnavailable."""
        began = self._clock.now()
        rows = await self._database.call(statements.STATUS, (self._heartbeat_timeout,))
        figures: Figures = rows[0][0]
        self._asked_at = self._clock.now()
        self._took_s = self._asked_at - began
        self._hear(figures)
        return figures

    async def ask_with_users(self) -> Figures:
        """Return the figures, and with them the users who are closest to a limit. Raises DatabaseUnavailable."""
        figures = await self.ask()
        [(users,)] = await self._database.call(statements.FULLEST_USERS, (FULLEST_USERS,))
        return figures | {"users": users}

    async def refresh(self, *, older_than_s: float = _SCRAPED_AGE_S) -> None:
        """Ask, unless the last answer serves for a while yet. When the database doesn't answer there are no figures."""
        enough_s = max(older_than_s, min(_REST * self._took_s, _OLDEST_S))
        if self._clock.now() - self._asked_at > enough_s:
            try:
                await self.ask()
            except DatabaseUnavailable:
                self._hear({})

    async def keep_fresh(self) -> None:
        """Ask now and then, for metrics that are pushed: nobody asks for those. Never returns."""
        while True:
            await self.refresh()
            await self._clock.sleep(_PUSHED_AGE_S)
