"""Without communication, all reactors compute the same order of reactors for a row. Rows are shared evenly."""

from collections import Counter
from itertools import permutations
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.rendezvous import LAST_RANK, STEP_S, RendezvousOrder

ROWS = 4000


def order_of(me: UUID, reactors: list[UUID]) -> RendezvousOrder:
    order = RendezvousOrder()
    order.set_members(me, [other for other in reactors if other != me])
    return order


def test_a_single_reactor_never_waits() -> None:
    assert RendezvousOrder().delay_s(uuid4().int) == 0.0
    me = uuid4()
    assert order_of(me, [me]).delay_s(uuid4().int) == 0.0
    assert order_of(me, [me]).is_alone is True
    assert order_of(me, [me, uuid4()]).is_alone is False


@given(st.lists(st.uuids(), min_size=2, max_size=LAST_RANK + 1, unique_by=lambda u: u.int & (1 << 64) - 1), st.uuids())
def test_each_reactor_has_its_own_rank_and_the_first_does_not_wait(reactors: list[UUID], row: UUID) -> None:
    delays = sorted(order_of(me, reactors).delay_s(row.int) for me in reactors)
    assert delays == [STEP_S * rank for rank in range(len(reactors))]


def test_the_last_of_many_reactors_waits_at_most_a_second() -> None:
    reactors = [uuid4() for _ in range(30)]
    assert max(order_of(me, reactors).delay_s(uuid4().int) for me in reactors) == STEP_S * LAST_RANK <= 1.0


def test_the_order_of_the_arguments_does_not_matter() -> None:
    reactors = [uuid4() for _ in range(4)]
    row = uuid4().int
    assert len({order_of(reactors[0], list(permutation)).delay_s(row) for permutation in permutations(reactors)}) == 1


def test_rows_are_shared_evenly() -> None:
    reactors = [uuid4() for _ in range(4)]
    orders = {me: order_of(me, reactors) for me in reactors}
    first = Counter(me for row in (uuid4().int for _ in range(ROWS)) for me in reactors if not orders[me].delay_s(row))
    assert sum(first.values()) == ROWS
    assert all(0.8 < first[me] / (ROWS / 4) < 1.2 for me in reactors)


@pytest.mark.parametrize("place", [0, 48, 64, 96], ids=["counters", "nodes", "sequences", "times"])
def test_ids_that_differ_in_a_few_bits_only_are_shared_too(place: int) -> None:
    """The ids differ in the bits in which a UUID holds a counter, a node, a sequence or a time."""
    reactors = [uuid4() for _ in range(2)]
    alike = uuid4().int
    order = order_of(reactors[0], reactors)
    mine = sum(not order.delay_s(alike ^ n << place) for n in range(ROWS))
    assert 0.8 < mine / (ROWS / 2) < 1.2


def test_when_a_reactor_leaves_only_its_own_rows_move() -> None:
    reactors = [uuid4() for _ in range(4)]
    gone, others = reactors[-1], reactors[:-1]
    for row in (uuid4().int for _ in range(200)):
        first = next(me for me in reactors if not order_of(me, reactors).delay_s(row))
        if first != gone:
            assert order_of(first, others).delay_s(row) == 0.0
