"""Reads reactor.status() and reuses the answer for 5 to 60 s, because reactor.status() counts every waiting upload.

So scrapes take at most a fiftieth of one connection's time. They take more if reactor.status() needs more than 1.2 s,
because an answer is reused for at most a minute.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from attrs import frozen

from reactor.core.errors import DatabaseFailure, DatabaseUnavailable
from reactor.postgres import statements
from reactor.postgres.admin import FULLEST_USERS
from reactor.postgres.connection import QueryRunner
from reactor.postgres.shared_query import SharedQuery
from reactor.runtime.clock import Clock
from reactor.telemetry.known_series import ZERO_FIGURES

_SCRAPED_AGE_S = 5.0
_PUSHED_AGE_S = 15.0
_AGE_PER_DURATION = 50.0
"""An answer is reused for at least this multiple of its query's duration, up to `_MAX_AGE_S`."""
_MAX_AGE_S = 60.0

_PATIENCE_S = 0.9
"""Maximum time that a caller waits for an answer while calls to the database fail, and that a scrape waits."""

_LONGEST_WAIT_S = 30.0
"""Maximum time that other callers wait: the statement_timeout."""

Figures = dict[str, Any]


@frozen
class KnownFigures:
    """The figures of the last answer."""

    figures: Figures
    age_s: float


class StatusQuery:
    """Reads the figures, and passes them to `on_result`."""

    def __init__(
        self,
        database: QueryRunner,
        clock: Clock,
        *,
        heartbeat_timeout_s: float,
        on_result: Callable[[Figures], None],
        failing: Callable[[], str | None] = lambda: None,
    ) -> None:
        """`on_result` is called with the figures of each query, and with {} when there is no answer.

        `failing` returns why calls to the database fail now; None if they don't.
        """
        self._database = database
        self._clock = clock
        self._heartbeat_timeout = timedelta(seconds=heartbeat_timeout_s)
        self._on_result = on_result
        self._failing = failing
        self._fresh_until = float("-inf")
        self.newest: Mapping[str, Any] = ZERO_FIGURES
        """The figures of the newest query; zeros before the first one, and empty if it failed."""
        self._figures: Figures = {}
        self._error: DatabaseFailure | None = None
        self._answered_at = float("-inf")
        self._wants_users = False
        self._shared = SharedQuery(self._run_query, clock)
        self.run = self._shared.run
        """The task that makes the queries."""

    @property
    def known(self) -> KnownFigures | None:
        """The figures of the last answer; None before the first."""
        return KnownFigures(self._figures, self._clock.now() - self._answered_at) if self._figures else None

    async def ask(self) -> Figures:
        """Return the figures of a query that begins after this call; `users` has the users closest to a limit.

        Raises DatabaseUnavailable: within a second while calls to the database fail.
        """
        self._wants_users = True
        query, began_at = self._shared.request(), self._clock.now()
        while not await self._shared.ended(query, within_s=_PATIENCE_S):
            reason, waited_s = self._failing(), self._clock.now() - began_at
            if reason is not None or waited_s >= _LONGEST_WAIT_S:
                raise DatabaseUnavailable(reason or f"the database hasn't answered for {waited_s:.0f} s")
        if self._error is not None:
            raise DatabaseUnavailable(self._failing() or str(self._error))
        return dict(self._figures)

    async def refresh(self) -> None:
        """Query the figures, unless the last answer may still be reused. Returns within a second.

        Without an answer in this time, the figures stay as they are, or are removed if calls to the database fail.
        """
        if self._clock.now() > self._fresh_until:
            has_ended = await self._shared.ended(self._shared.request(), within_s=_PATIENCE_S)
            if not has_ended and self._failing() is not None:
                self._publish({})

    async def keep_fresh(self) -> None:
        """Refresh every 15 s, for metrics that are pushed to a collector. Never returns."""
        while True:
            await self.refresh()
            await self._clock.sleep(_PUSHED_AGE_S)

    async def _run_query(self) -> None:
        try:
            self._figures = await self._query()
        except DatabaseFailure as error:
            self._error = error
            self._publish({})
        else:
            self._error = None
            self._publish(self._figures)

    def _publish(self, figures: Figures) -> None:
        self.newest = figures
        self._on_result(figures)

    async def _query(self) -> Figures:
        wants_users, self._wants_users = self._wants_users, False
        began_at = self._clock.now()
        [(figures,)] = await self._database.call(statements.STATUS, (self._heartbeat_timeout,))
        self._answered_at = now = self._clock.now()
        self._fresh_until = now + max(_SCRAPED_AGE_S, min(_AGE_PER_DURATION * (now - began_at), _MAX_AGE_S))
        if not wants_users:
            return {**figures}
        [(users,)] = await self._database.call(statements.FULLEST_USERS, (FULLEST_USERS,))
        return {**figures, "users": users}
