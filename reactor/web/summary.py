"""The newest answer of reactor.live_summary(), which all pages share, or the reason why there is none."""

from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from reactor.core.errors import DatabaseFailure
from reactor.core.process import Fault
from reactor.engine.faults import DatabaseFaults
from reactor.postgres import statements
from reactor.postgres.admin import LIVE_SUMMARY_CAP
from reactor.postgres.connection import QueryRunner
from reactor.postgres.shared_query import SharedQuery
from reactor.runtime.clock import Clock
from reactor.web.recent import BUCKET_S, BUCKETS

REFRESH_S: Final = 3.0
"""Interval of reads while a page is open: 20 transactions a minute. The limit is 30."""

_FRESH_S: Final = 2.0
_HISTORY_POINTS: Final = round(BUCKET_S * BUCKETS / REFRESH_S)

_PATIENCE_S: Final = 0.9
"""Maximum time that a page waits for an answer while calls to the database fail."""

Values = dict[str, Any]


class LatestSummary:
    """Reads the summary when it is too old. `run` is the task that makes the queries."""

    def __init__(
        self,
        database: QueryRunner,
        clock: Clock,
        faults: DatabaseFaults,
        *,
        heartbeat_timeout_s: float,
    ) -> None:
        self._database = database
        self._clock = clock
        self._faults = faults
        self._parameters = (timedelta(seconds=heartbeat_timeout_s), LIVE_SUMMARY_CAP)
        self.figures: Values | None = None
        """The newest answer; None while the database does not answer."""
        self.read_at = float("-inf")
        """When the last query began, in monotonic seconds."""
        self.due = deque[tuple[float, int]](maxlen=_HISTORY_POINTS)
        self.waiting = deque[tuple[float, int]](maxlen=_HISTORY_POINTS)
        """Numbers of uploads over time, each with the monotonic time."""
        self._error = ""
        self._answered_at: float | None = None
        """Monotonic time of the last answer; before the first one, of the first failure."""
        self._is_outdated = False
        self._max_age_s = _FRESH_S
        self._shared = SharedQuery(self._query, clock)
        self.run = self._shared.run

    def record(self, figures: Mapping[str, Any]) -> None:
        """Add figures of reactor.status() or live_summary() to the charts. If no page is open, scrapes supply them."""
        if uploads := figures.get("uploads"):
            self.due.append((self._clock.now(), int(uploads["due"])))
            self.waiting.append((self._clock.now(), int(uploads["failed"])))

    def invalidate(self) -> None:
        """Make the next `refresh` read the database."""
        self._is_outdated = True

    async def refresh(self, max_age_s: float = _FRESH_S) -> None:
        """Read the database if the last read is at least `max_age_s` old, or after `invalidate`.

        Returns within a second if calls to the database fail: then there are no figures.
        """
        self._max_age_s = max_age_s
        if self._is_fresh():
            return
        query = self._shared.request()
        while not await self._shared.ended(query, within_s=_PATIENCE_S):
            if (reason := self._faults.reason()) is not None:
                self._lose(reason)
                return

    def fault(self) -> Fault | None:
        """Return why there are no figures. If there are figures, return the fault of other calls; None without one."""
        if self.figures is not None or self._answered_at is None:
            return self._faults.current()
        lasts_s = self._clock.now() - self._answered_at
        return Fault(doing="read the figures", reason=self._error, lasts_s=lasts_s, is_outage=True)

    def _is_fresh(self) -> bool:
        return not self._is_outdated and self._clock.now() - self.read_at < self._max_age_s

    async def _query(self) -> None:
        if self._is_fresh():  # another caller's query has just ended
            return
        self._is_outdated = False
        self.read_at = self._clock.now()
        try:
            [(figures,)] = await self._database.call(statements.LIVE_SUMMARY, self._parameters)
        except DatabaseFailure as error:
            self._lose(str(error))
        else:
            self.figures, self._answered_at = figures, self._clock.now()
            self.record(figures)

    def _lose(self, reason: str) -> None:
        self.figures, self._error = None, reason
        if self._answered_at is None:
            self._answered_at = self._clock.now()
