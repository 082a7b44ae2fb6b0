"""What metrics cost the database is bounded by time, not by the length of its queue."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, LiteralString

import pytest
from support.manual_clock import ManualClock

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres import statements
from reactor.postgres.status import Figures, StatusQuery


class SlowDatabase:
    """Answers after a while of the test's clock, and counts; or doesn't."""

    def __init__(self, clock: ManualClock, *, takes_s: float) -> None:
        self._clock = clock
        self.takes_s = takes_s
        self.is_away = False
        self.asked = 0

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        assert (statement, parameters) == (statements.STATUS, (timedelta(seconds=60),))
        self.asked += 1
        self._clock.advance(self.takes_s)
        if self.is_away:
            raise DatabaseUnavailable("it is away")
        return [({"number": self.asked},)]


def metrics_of(takes_s: float) -> tuple[StatusQuery, SlowDatabase, ManualClock, list[Figures]]:
    clock, heard = ManualClock(), list[Figures]()
    database = SlowDatabase(clock, takes_s=takes_s)
    return StatusQuery(database, clock, heartbeat_timeout_s=60, hear=heard.append), database, clock, heard


@pytest.mark.parametrize(("takes_s", "serves_s"), [(0.001, 5), (0.1, 5), (0.4, 20), (1.0, 50), (9.0, 60)])
async def test_an_answer_serves_the_longer_the_longer_it_took(takes_s: float, serves_s: float) -> None:
    figures, database, clock, heard = metrics_of(takes_s)
    await figures.refresh()
    for _ in range(3):
        clock.advance(serves_s / 3 - 0.01)
        await figures.refresh()
    assert database.asked == 1
    clock.advance(0.05)
    await figures.refresh()
    assert database.asked == 2
    assert heard == [{"number": 1}, {"number": 2}]


async def test_who_asks_for_the_status_itself_has_it_as_it_is_now() -> None:
    figures, _, _, heard = metrics_of(1.0)
    assert [await figures.ask(), await figures.ask()] == [{"number": 1}, {"number": 2}]
    assert heard == [{"number": 1}, {"number": 2}]


async def test_without_an_answer_there_are_no_figures_and_the_next_scrape_asks_again() -> None:
    figures, database, clock, heard = metrics_of(0.1)
    await figures.refresh()
    clock.advance(6)
    database.is_away = True
    await figures.refresh()
    await figures.refresh()
    database.is_away = False
    await figures.refresh()
    assert heard == [{"number": 1}, {}, {}, {"number": 4}]
