"""Reactors agree on an order for each row without a word, and share the rows evenly."""

from collections import Counter
from itertools import permutations
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.rendezvous import LAST_RANK, STEP_S, RendezvousOrder

ROWS = 4000


def seated(me: UUID, reactors: list[UUID]) -> RendezvousOrder:
    turns = RendezvousOrder()
    turns.set_members(me, [other for other in reactors if other != me])
    return turns


def test_a_reactor_alone_never_waits() -> None:
    assert RendezvousOrder().delay_s(uuid4().int) == 0.0
    me = uuid4()
    assert seated(me, [me]).delay_s(uuid4().int) == 0.0


@given(st.lists(st.uuids(), min_size=2, max_size=LAST_RANK + 1, unique_by=lambda u: u.int & (1 << 64) - 1), st.uuids())
def test_each_has_a_turn_of_its_own_and_somebody_goes_at_once(reactors: list[UUID], row: UUID) -> None:
    delays = sorted(seated(me, reactors).delay_s(row.int) for me in reactors)
    assert delays == [STEP_S * rank for rank in range(len(reactors))]


def test_the_last_of_many_still_comes_within_a_second() -> None:
    reactors = [uuid4() for _ in range(30)]
    assert max(seated(me, reactors).delay_s(uuid4().int) for me in reactors) == STEP_S * LAST_RANK <= 1.0


def test_the_order_does_not_depend_on_who_was_told_first() -> None:
    reactors = [uuid4() for _ in range(4)]
    row = uuid4().int
    assert len({seated(reactors[0], list(order)).delay_s(row) for order in permutations(reactors)}) == 1


def test_rows_are_shared_evenly() -> None:
    reactors = [uuid4() for _ in range(4)]
    turns = {me: seated(me, reactors) for me in reactors}
    first = Counter(me for row in (uuid4().int for _ in range(ROWS)) for me in reactors if not turns[me].delay_s(row))
    assert sum(first.values()) == ROWS
    assert all(0.8 < first[me] / (ROWS / 4) < 1.2 for me in reactors)


@pytest.mark.parametrize("place", [0, 48, 64, 96], ids=["counters", "nodes", "sequences", "times"])
def test_ids_that_differ_in_a_few_bits_only_are_shared_too(place: int) -> None:
    """Whatever kind of UUID an app makes."""
    reactors = [uuid4() for _ in range(2)]
    alike = uuid4().int
    turns = seated(reactors[0], reactors)
    mine = sum(not turns.delay_s(alike ^ n << place) for n in range(ROWS))
    assert 0.8 < mine / (ROWS / 2) < 1.2


def test_when_one_leaves_only_its_own_rows_change_hands() -> None:
    reactors = [uuid4() for _ in range(4)]
    gone, left = reactors[-1], reactors[:-1]
    for row in (uuid4().int for _ in range(200)):
        first = next(me for me in reactors if not seated(me, reactors).delay_s(row))
        if first != gone:
            assert seated(first, left).delay_s(row) == 0.0
