"""A slow status query's result is reused for a longer time, and a database that is silent delays no caller."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, LiteralString

import pytest
from anyio import Event, create_task_group
from support.manual_clock import ManualClock, idle_event

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres import statements
from reactor.postgres.status import Figures, StatusQuery


class SlowDatabase:
    """A database that counts its queries, and fails while `is_down`. Each query takes `takes_s` on the test's clock."""

    def __init__(self, clock: ManualClock, *, takes_s: float) -> None:
        self._clock = clock
        self.takes_s = takes_s
        self.is_down = False
        self.may_answer = Event()
        self.may_answer.set()
        self.asked = 0

    async def call(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> list[Any]:
        if statement == statements.FULLEST_USERS:
            return [(["a user"],)]
        assert (statement, parameters) == (statements.STATUS, (timedelta(seconds=60),))
        self.asked += 1
        number = self.asked
        await self.may_answer.wait()
        self._clock.advance(self.takes_s)
        if self.is_down:
            raise DatabaseUnavailable("it is down")
        return [({"number": number},)]


class Harness:
    """A status query that runs, on a database that the test controls."""

    def __init__(self, takes_s: float) -> None:
        self.clock = ManualClock()
        self.results: list[Figures] = []
        self.database = SlowDatabase(self.clock, takes_s=takes_s)
        self.reason: str | None = None
        self.query = StatusQuery(
            self.database,
            self.clock,
            heartbeat_timeout_s=60,
            on_result=self.results.append,
            failing=lambda: self.reason,
        )


@asynccontextmanager
async def harness_of(takes_s: float) -> AsyncIterator[Harness]:
    harness = Harness(takes_s)
    async with create_task_group() as tasks:
        tasks.start_soon(harness.query.run)
        yield harness
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("takes_s", "reused_s"), [(0.001, 5), (0.1, 5), (0.4, 20), (1.0, 50), (9.0, 60)])
async def test_a_slow_result_is_reused_for_longer(takes_s: float, reused_s: float) -> None:
    async with harness_of(takes_s) as harness:
        await harness.query.refresh()
        for _ in range(3):
            harness.clock.advance(reused_s / 3 - 0.01)
            await harness.query.refresh()
        assert harness.database.asked == 1
        harness.clock.advance(0.05)
        await harness.query.refresh()
        assert harness.database.asked == 2
        assert harness.results == [{"number": 1}, {"number": 2}]


async def test_ask_always_queries_and_adds_the_users() -> None:
    async with harness_of(1.0) as harness:
        assert [await harness.query.ask(), await harness.query.ask()] == [
            {"number": 1, "users": ["a user"]},
            {"number": 2, "users": ["a user"]},
        ]


async def test_a_failed_query_gives_no_figures_and_the_next_refresh_queries_again() -> None:
    async with harness_of(0.1) as harness:
        await harness.query.refresh()
        harness.clock.advance(6)
        harness.database.is_down = True
        await harness.query.refresh()
        await harness.query.refresh()
        with pytest.raises(DatabaseUnavailable, match="it is down"):
            await harness.query.ask()
        harness.database.is_down = False
        await harness.query.refresh()
        assert harness.results == [{"number": 1}, {}, {}, {}, {"number": 5}]


# a server that doesn't answer


async def test_a_silent_database_that_is_known_to_fail_delays_a_caller_for_a_second_at_most() -> None:
    async with harness_of(0.1) as harness:
        await harness.query.refresh()
        harness.clock.advance(6)
        harness.database.may_answer, harness.reason = Event(), "connection refused"
        raised: list[str] = []

        async def ask() -> None:
            try:
                await harness.query.ask()
            except DatabaseUnavailable as error:
                raised.append(str(error))

        async with create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(harness.query.refresh)
            await idle_event()
            harness.clock.advance(0.8)
            await idle_event()
            assert raised == []
            harness.clock.advance(0.2)
        assert raised == ["connection refused"]
        assert harness.results == [{"number": 1}, {}]
        known = harness.query.known
        assert known is not None
        assert known.figures == {"number": 1}
        assert known.age_s == pytest.approx(7.0)
        harness.database.may_answer.set()


async def test_a_slow_database_that_does_not_fail_delays_no_scrape_and_keeps_its_figures() -> None:
    async with harness_of(0.1) as harness:
        await harness.query.refresh()
        harness.clock.advance(6)
        harness.database.may_answer = Event()
        asked: list[Figures] = []

        async def ask() -> None:
            asked.append(await harness.query.ask())

        async with create_task_group() as tasks:
            tasks.start_soon(harness.query.refresh)
            tasks.start_soon(ask)
            for _ in range(3):
                await idle_event()
                harness.clock.advance(1.0)
            await idle_event()
            assert (harness.results, asked) == ([{"number": 1}], [])  # the answer is waited for, the scrape has ended
            harness.database.may_answer.set()
        assert asked[0]["number"] >= 2


async def test_without_an_answer_and_without_a_known_fault_a_caller_waits_half_a_minute() -> None:
    async with harness_of(0.1) as harness:
        harness.database.may_answer = Event()
        raised: list[str] = []

        async def ask() -> None:
            try:
                await harness.query.ask()
            except DatabaseUnavailable as error:
                raised.append(str(error))

        async with create_task_group() as tasks:
            tasks.start_soon(ask)
            while not raised:
                await idle_event()
                harness.clock.advance(1.0)
        assert raised == ["the database hasn't answered for 30 s"]
        assert harness.query.known is None
