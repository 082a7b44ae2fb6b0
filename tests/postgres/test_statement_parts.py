"""What the database refuses is split down to the items that it refuses alone; all others are done, each once."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.errors import DatabaseForbidden, DatabaseRefused, DatabaseUnavailable
from reactor.postgres.statement_parts import StatementParts


class Database:
    """Does items, or raises an error if a statement contains a bad one."""

    def __init__(self, bad: set[int], error: Exception, *, seconds: float = 0.0) -> None:
        self.bad = bad
        self.error = error
        self.seconds = seconds
        self.done: list[int] = []
        self.sizes: list[int] = []

    async def run(self, items: Sequence[int]) -> None:
        self.sizes.append(len(items))
        if not self.bad.isdisjoint(items):
            await asyncio.sleep(self.seconds)
            raise self.error
        self.done += items


REFUSED = DatabaseRefused("no", sqlstate="23514")
BUSY = DatabaseUnavailable("a lock", is_busy=True)


@given(st.integers(0, 600), st.sets(st.integers(0, 599), max_size=8))
def test_all_but_the_refused_items_are_done_once(count: int, bad: set[int]) -> None:
    database = Database(bad, REFUSED)
    refused = asyncio.run(StatementParts().call(database.run, range(count)))
    bad = {item for item in bad if item < count}
    assert {item for item, _ in refused} == bad
    assert sorted(database.done) == [item for item in range(count) if item not in bad]
    assert all(failure is REFUSED for _, failure in refused)


async def test_an_empty_call_is_one_statement() -> None:
    database = Database(set(), REFUSED)
    assert await StatementParts().call(database.run, []) == []
    assert database.sizes == [0]


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), DatabaseForbidden("no grant")])
async def test_what_is_no_rows_fault_is_raised(error: Exception) -> None:
    database = Database({3}, error)
    with pytest.raises(type(error)):
        await StatementParts().call(database.run, range(10))
    assert database.sizes == [10]


async def test_a_lock_is_split_too_but_not_for_long() -> None:
    """Each try may wait for a lock: with many locked rows, the rest is returned untried."""
    few = Database({7}, BUSY, seconds=0.01)
    assert [item for item, _ in await StatementParts().call(few.run, range(100))] == [7]
    all_of_them = Database(set(range(500)), BUSY, seconds=0.05)
    began = asyncio.get_running_loop().time()
    busy = await StatementParts().call(all_of_them.run, range(500))
    assert asyncio.get_running_loop().time() - began < 2.0
    assert sorted(item for item, _ in busy) == list(range(500))


async def test_statements_after_a_refusal_are_smaller_for_a_while() -> None:
    parts = StatementParts()
    assert parts.size() == 500
    await parts.call(Database({3}, REFUSED).run, range(10))
    assert {parts.size() for _ in range(50)} == {150}
    assert parts.size() == 500
