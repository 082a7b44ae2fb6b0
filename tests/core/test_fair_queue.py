"""Tenants take turns in the fair queue, within their caps. A simple model made of lists gives the same results."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reactor.core.fair_queue import FairQueue
from reactor.core.model import Signal


def signal(tenant: int, number: int) -> Signal:
    return Signal("uploads", number, tenant)


def test_tenants_take_turns() -> None:
    queue = FairQueue[Signal](None)
    for number in range(3):
        queue.put(signal(1, number))
    queue.put(signal(2, 0))
    queue.put(signal(3, 0))

    assert [taken.tenant for taken in queue.take(5)] == [1, 2, 3, 1, 1]


def test_the_round_continues_where_the_last_call_ended() -> None:
    queue = FairQueue[Signal](None)
    for number in range(2):
        for tenant in (1, 2, 3):
            queue.put(signal(tenant, number))

    assert [taken.tenant for _ in range(3) for taken in queue.take(2)] == [1, 2, 3, 1, 2, 3]


def test_a_tenant_with_one_signal_does_not_wait_for_one_with_thousands() -> None:
    queue = FairQueue[Signal](None)
    for number in range(5000):
        queue.put(signal(1, number))
    queue.put(signal(2, 0))

    assert signal(2, 0) in queue.take(2)


def test_signals_of_one_tenant_are_taken_in_order() -> None:
    queue = FairQueue[Signal](None)
    for number in range(5):
        queue.put(signal(1, number))

    assert queue.take(5) == [signal(1, number) for number in range(5)]


def test_a_signal_that_waits_is_not_added_again() -> None:
    queue = FairQueue[Signal](None)

    assert queue.put(signal(1, 0))
    assert not queue.put(signal(1, 0))
    assert queue.take(9) == [signal(1, 0)]
    assert queue.put(signal(1, 0))


def test_a_tenant_at_its_cap_is_parked_until_a_release() -> None:
    queue = FairQueue[Signal](2)
    for number in range(4):
        queue.put(signal(1, number))

    assert len(queue.take(9)) == 2
    assert not queue.takeable
    assert len(queue) == 2
    queue.put(signal(1, 4))
    assert queue.take(9) == []

    queue.release(1)
    assert queue.takeable
    assert queue.take(9) == [signal(1, 2)]


def test_a_discarded_signal_is_not_taken() -> None:
    queue = FairQueue[Signal](1)
    queue.put(signal(1, 0))

    assert queue.discard(signal(1, 0))
    assert not queue.discard(signal(1, 0))
    assert not queue.takeable
    assert len(queue) == 0


def test_discarding_the_last_signal_of_a_parked_tenant_unparks_it() -> None:
    queue = FairQueue[Signal](1)
    for number in range(2):
        queue.put(signal(1, number))
    queue.take(1)

    assert queue.discard(signal(1, 1))
    assert not queue._parked
    queue.release(1)
    assert queue.take(9) == []


@pytest.mark.parametrize("n", [-1, 2])
def test_releasing_more_than_was_taken_is_refused(n: int) -> None:
    queue = FairQueue[Signal](None)
    queue.put(signal(1, 0))
    queue.take(1)

    with pytest.raises(ValueError, match="can't release"):
        queue.release(1, n)


def test_a_tenant_without_taken_signals_cannot_release_one() -> None:
    with pytest.raises(ValueError, match="can't release 1 of 0"):
        FairQueue[Signal](1).release(7)


def test_a_tenant_without_signals_takes_no_memory() -> None:
    queue = FairQueue[Signal](1)
    queue.put(signal(1, 0))
    queue.take(1)
    queue.release(1)

    assert not queue._taken
    assert not queue._ring
    assert not queue._parked


class FairAgainstList(RuleBasedStateMachine):
    """Compare the queue with a list of the waiting signals and a list of the tenants in the ring."""

    @initialize(cap=st.none() | st.integers(1, 3))
    def begin(self, cap: int | None) -> None:
        self.queue = FairQueue[Signal](cap)
        self.cap = 10**9 if cap is None else cap
        self.waiting: list[Signal] = []
        self.ring: list[int] = []
        self.taken: list[int] = []

    def update_ring(self) -> None:
        """Keep only tenants below their cap in the ring, and append new tenants."""
        able = {it.tenant for it in self.waiting if self.taken.count(it.tenant) < self.cap}
        self.ring = [tenant for tenant in self.ring if tenant in able]
        self.ring += sorted(able - set(self.ring))

    @rule(tenant=st.integers(0, 4), number=st.integers(0, 5))
    def put(self, tenant: int, number: int) -> None:
        it = signal(tenant, number)
        assert self.queue.put(it) == (it not in self.waiting)
        if it not in self.waiting:
            self.waiting.append(it)
        self.update_ring()

    @rule(tenant=st.integers(0, 4), number=st.integers(0, 5))
    def discard(self, tenant: int, number: int) -> None:
        it = signal(tenant, number)
        assert self.queue.discard(it) == (it in self.waiting)
        self.waiting = [other for other in self.waiting if other != it]
        self.update_ring()

    @rule()
    def clear(self) -> None:
        assert sorted(self.queue.clear()) == sorted(self.waiting)
        self.waiting = []
        self.update_ring()

    @rule(limit=st.integers(0, 8))
    def take(self, limit: int) -> None:
        expected: list[Signal] = []
        while self.ring and len(expected) < limit:
            tenant = self.ring.pop(0)
            it = next(it for it in self.waiting if it.tenant == tenant)
            self.waiting.remove(it)
            self.taken.append(tenant)
            expected.append(it)
            self.update_ring()
        assert self.queue.take(limit) == expected

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.taken:
            tenant = data.draw(st.sampled_from(self.taken))
            n = data.draw(st.integers(0, self.taken.count(tenant)))
            self.queue.release(tenant, n)
            for _ in range(n):
                self.taken.remove(tenant)
            self.update_ring()

    @invariant()
    def len_and_takeable_match_the_model(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert all(item in self.queue for item in self.waiting)
        assert signal(9, 0) not in self.queue
        assert self.queue.takeable == bool(self.ring)

    @invariant()
    def no_tenant_has_more_taken_than_the_cap(self) -> None:
        assert all(count <= self.cap for count in self.queue._taken.values())

    @invariant()
    def a_tenant_is_parked_exactly_when_it_waits_and_has_reached_its_cap(self) -> None:
        at_cap = {it.tenant for it in self.waiting if self.taken.count(it.tenant) >= self.cap}
        assert set(self.queue._parked) == at_cap
        assert not at_cap & set(self.queue._ring)


TestFairAgainstList = FairAgainstList.TestCase
TestFairAgainstList.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
