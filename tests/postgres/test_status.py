"""A slow status query's result is reused for a longer time, so that scrapes take little of the database's time."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, LiteralString

import pytest
from support.manual_clock import ManualClock

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres import statements
from reactor.postgres.status import Figures, StatusQuery


class SlowDatabase:
    """A database that counts its queries, and fails while `is_down`. Each query takes `takes_s` on the test's clock."""

    def __init__(self, clock: ManualClock, *, takes_s: float) -> None:
        self._clock = clock
        self.takes_s = takes_s
        self.is_down = False
        self.asked = 0

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        assert (statement, parameters) == (statements.STATUS, (timedelta(seconds=60),))
        self.asked += 1
        self._clock.advance(self.takes_s)
        if self.is_down:
            raise DatabaseUnavailable("it is down")
        return [({"number": self.asked},)]


def query_of(takes_s: float) -> tuple[StatusQuery, SlowDatabase, ManualClock, list[Figures]]:
    clock, results = ManualClock(), list[Figures]()
    database = SlowDatabase(clock, takes_s=takes_s)
    return StatusQuery(database, clock, heartbeat_timeout_s=60, on_result=results.append), database, clock, results


@pytest.mark.parametrize(("takes_s", "reused_s"), [(0.001, 5), (0.1, 5), (0.4, 20), (1.0, 50), (9.0, 60)])
async def test_a_slow_result_is_reused_for_longer(takes_s: float, reused_s: float) -> None:
    query, database, clock, results = query_of(takes_s)
    await query.refresh()
    for _ in range(3):
        clock.advance(reused_s / 3 - 0.01)
        await query.refresh()
    assert database.asked == 1
    clock.advance(0.05)
    await query.refresh()
    assert database.asked == 2
    assert results == [{"number": 1}, {"number": 2}]


async def test_ask_always_queries() -> None:
    query, _, _, results = query_of(1.0)
    assert [await query.ask(), await query.ask()] == [{"number": 1}, {"number": 2}]
    assert results == [{"number": 1}, {"number": 2}]


async def test_a_failed_query_gives_no_figures_and_the_next_refresh_queries_again() -> None:
    query, database, clock, results = query_of(0.1)
    await query.refresh()
    clock.advance(6)
    database.is_down = True
    await query.refresh()
    await query.refresh()
    database.is_down = False
    await query.refresh()
    assert results == [{"number": 1}, {}, {}, {"number": 4}]
