"""The timer wheel pops keys at their ticks and releases their memory: examples.

tests/core/test_timer_wheel_model.py compares the wheel with a dictionary.
"""

import gc
import sys
from typing import Any
from weakref import WeakSet

import pytest

from reactor.core.timer_slots import BITS
from reactor.core.timer_wheel import TimerWheel
from reactor.runtime.clock import TICKS_PER_S

FIFTEEN_MINUTES = 15 * 60 * TICKS_PER_S
TEN_YEARS = 10 * 365 * 24 * 3600 * TICKS_PER_S
BLOCK = 1 << BITS


class Key:
    """A key that allows weak references."""


def entries(wheel: TimerWheel[int]) -> int:
    """Return the number of entries, live and stale."""
    return sum(map(len, wheel._later.slots.values())) + len(wheel._current)


def footprint(wheel: TimerWheel[Any]) -> int:
    """Return the size in bytes of all containers that grow with the number of timers."""
    later, current = wheel._later, wheel._current
    grows = [wheel.due_ticks, later.slots, later.stale, later._numbers, current.keys, current.ticks]
    return sum(map(sys.getsizeof, [*grows, *later.slots.values()]))


def drive(wheel: TimerWheel[str]) -> list[tuple[int, list[str]]]:
    """Pop at each `next_due` until no key is armed. Return each of these ticks with the keys popped at it."""
    seen = []
    while (tick := wheel.next_due()) is not None:
        seen.append((tick, wheel.pop(tick)))
    return seen


def test_a_key_is_popped_at_its_tick_and_not_before() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.arm("a", 300)

    assert wheel.pop(299) == []
    assert wheel.pop(300) == ["a"]
    assert wheel.pop(300) == []


@pytest.mark.parametrize("ahead", [0, 1, BLOCK - 1, BLOCK, 2**20 - 1, 2**20, FIFTEEN_MINUTES, TEN_YEARS, 10**100])
@pytest.mark.parametrize("start", [0, BLOCK - 1, 5_000_000])
def test_a_key_at_any_distance_is_popped_at_its_exact_tick(start: int, ahead: int) -> None:
    wheel: TimerWheel[str] = TimerWheel(start)
    wheel.arm("a", start + ahead)

    assert wheel.pop(start + ahead - 1) == []
    assert wheel.pop(start + ahead) == ["a"]


def test_keys_are_popped_in_order_of_their_due_ticks() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    ticks = [due * 7919 % 3_000_017 for due in range(5000)]
    for due in ticks:
        wheel.arm(due, due)

    assert wheel.pop(3_000_017) == sorted(ticks)


def test_a_key_armed_for_the_past_is_due_immediately() -> None:
    wheel: TimerWheel[str] = TimerWheel(1000)
    wheel.arm("late", 10)
    wheel.arm("negative", -10)

    assert wheel.next_due() == 1000
    assert wheel.due_ticks.get("late") == wheel.due_ticks.get("negative") == 1000
    assert wheel.pop(1000) == ["late", "negative"]


def test_keys_that_are_due_immediately_are_popped_in_the_order_of_arming() -> None:
    wheel: TimerWheel[int] = TimerWheel(1000)
    for key in range(10):
        wheel.arm(key, 0)

    assert wheel.pop(1000, limit=4) == [0, 1, 2, 3]
    wheel.arm(10, 0)
    assert wheel.pop(1000) == [4, 5, 6, 7, 8, 9, 10]


def test_arming_an_armed_key_moves_it() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.arm("later", 10)
    wheel.arm("later", 5000)
    wheel.arm("sooner", 5000)
    wheel.arm("sooner", 10)

    assert len(wheel) == 2
    assert drive(wheel) == [(10, ["sooner"]), (5000 // BLOCK * BLOCK, []), (5000, ["later"])]


def test_a_key_moved_away_and_back_is_popped_once() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.arm("b", BLOCK)
    for due in (BLOCK, 2 * BLOCK, BLOCK):
        wheel.arm("a", due)

    assert sorted(wheel.pop(3 * BLOCK)) == ["a", "b"]


def test_a_key_moved_back_within_the_current_block_is_popped_once() -> None:
    """The wheel may drop the old entry of the key or reuse the entry. It must return the key exactly once."""
    for others in range(8):
        wheel: TimerWheel[int] = TimerWheel()
        for key in range(1, others + 1):
            wheel.arm(key, 0)
        for due in (0, 1, 0, 2, 0):
            wheel.arm(0, due)
        assert sorted(wheel.pop(0)) == list(range(others + 1))
        assert wheel.pop(5) == []


def test_a_cancelled_key_is_never_popped_and_can_be_armed_again() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.arm("a", 10)

    assert wheel.cancel("a")
    assert not wheel.cancel("a")
    assert "a" not in wheel.due_ticks
    assert wheel.next_due() is None
    assert wheel.pop(20) == []

    wheel.arm("a", 30)
    assert wheel.pop(30) == ["a"]


def test_a_cancelled_key_between_others_is_skipped() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    for due, key in enumerate("abcd", start=5):
        wheel.arm(key, due)
    wheel.cancel("b")

    assert wheel.pop(10, limit=2) == ["a", "c"]
    assert wheel.pop(10) == ["d"]


def test_keys_beyond_the_limit_are_popped_by_the_next_call() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    for key, due in (("a", 5), ("b", 5), ("c", 2000)):
        wheel.arm(key, due)

    assert wheel.pop(3000, limit=0) == []
    assert wheel.pop(3000, limit=1) == ["a"]
    assert wheel.next_due() == 5
    assert wheel.pop(3000, limit=1) == ["b"]
    assert wheel.pop(3000, limit=5) == ["c"]
    assert wheel.now == 3000


def test_next_due_ignores_cancelled_keys_beyond_a_limit() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(4):
        wheel.arm(key, 10)
    wheel.cancel(2)
    wheel.cancel(3)

    assert wheel.pop(10, limit=2) == [0, 1]
    assert wheel.next_due() is None


def test_a_caller_wakes_without_a_key_at_most_once() -> None:
    wheel: TimerWheel[str] = TimerWheel()
    wheel.arm("a", FIFTEEN_MINUTES + 1)

    assert drive(wheel) == [(FIFTEEN_MINUTES // BLOCK * BLOCK, []), (FIFTEEN_MINUTES + 1, ["a"])]


def test_next_due_ignores_cancelled_keys() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(500):
        wheel.arm(key, key + 1)
    wheel.arm(500, 505)
    for key in range(500):
        wheel.cancel(key)

    assert wheel.next_due() == 505


def test_popping_at_a_past_tick_changes_nothing() -> None:
    wheel: TimerWheel[str] = TimerWheel(100)
    wheel.arm("a", 100)

    assert wheel.pop(99) == []
    assert wheel.now == 100
    assert wheel.pop(100) == ["a"]


def test_moving_keys_leaves_no_more_stale_entries_than_keys() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(100):
        wheel.arm(key, TEN_YEARS)

    for step in range(20_000):
        wheel.arm(0, TEN_YEARS + step % 2 * BLOCK)
        wheel.arm(1, step % 100)  # also within the current block
        assert entries(wheel) <= 2 * len(wheel)

    assert set(wheel.pop(2 * TEN_YEARS)) == set(range(100))


def test_moving_a_key_within_a_later_block_adds_no_entry() -> None:
    wheel: TimerWheel[int] = TimerWheel(5 * BLOCK)
    wheel.arm(1, 7 * BLOCK)
    wheel.arm(1, 7 * BLOCK + 10)

    assert entries(wheel) == 1
    assert wheel.pop(8 * BLOCK) == [1]


def test_more_slots_than_spare_lists_can_exist() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for block in range(1, 4001):
        wheel.arm(block, block * BLOCK)

    assert wheel.pop(4000 * BLOCK) == list(range(1, 4001))


def test_stale_entries_are_no_longer_counted_once_they_are_passed() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(20):
        wheel.arm(key, key)
    for key in (0, 1, 2, 7, 8):
        wheel.cancel(key)
    assert wheel._current.stale == 5

    assert wheel.next_due() == 3
    assert wheel._current.stale == 2
    assert wheel.pop(10) == [3, 4, 5, 6, 9, 10]
    assert wheel._current.stale == 0


def test_taken_entries_of_the_current_block_are_dropped_once_they_are_half() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(1000):
        wheel.arm(key, key)

    wheel.pop(499)

    assert len(wheel._current.keys) == 500


def test_the_dictionary_is_not_copied_while_it_is_used_well() -> None:
    """Copying the dictionary takes time proportional to the number of keys."""
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(1000):
        wheel.arm(key, key)
    due = wheel.due_ticks
    wheel.pop(10)
    wheel.cancel(11)
    assert wheel.due_ticks is due

    small: TimerWheel[int] = TimerWheel()
    for key in range(10):
        small.arm(key, key)
    due = small.due_ticks
    small.pop(9)
    assert small.due_ticks is due


def test_cancelling_in_the_current_block_releases_the_memory_too() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(20_000):
        wheel.arm(key, 7)
    full = footprint(wheel)
    for key in range(20_000):
        wheel.cancel(key)

    assert footprint(wheel) < full / 10


def test_a_sample_has_evenly_chosen_due_ticks_and_their_weight() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    assert wheel.sample(10) == ([], 1)
    for key in range(100):
        wheel.arm(key, 1000 + key)

    assert wheel.sample(200) == ([*range(1000, 1100)], 1)
    assert wheel.sample(10) == ([*range(1000, 1100, 11)], 11)


def test_cancelling_releases_the_keys_and_their_memory() -> None:
    wheel: TimerWheel[object] = TimerWheel()
    keys = [Key() for _ in range(20_000)]
    alive = WeakSet(keys)
    for number, key in enumerate(keys):
        wheel.arm(key, TEN_YEARS + number * 100)
    full = footprint(wheel)
    while keys:
        wheel.cancel(keys.pop())
    del key

    assert len(alive) == 0
    assert footprint(wheel) < full / 10


def test_popping_releases_the_memory_too() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(20_000):
        wheel.arm(key, key)
    full = footprint(wheel)
    wheel.pop(20_000)

    assert footprint(wheel) < full / 10


def test_removed_slots_release_their_memory() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for block in range(20_000):
        wheel.arm(0, TEN_YEARS + block * BLOCK)

    assert footprint(wheel) < 20_000


def test_a_pop_moves_keys_of_one_block_at_a_time() -> None:
    """In a hierarchical timer wheel, one pop may move all timers of a level. This wheel must not."""
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(100):
        wheel.arm(key, TEN_YEARS + key * BLOCK)

    wheel.pop(TEN_YEARS)

    assert len(wheel._current) <= 1
    assert len(wheel._later.slots) >= 98


def test_keys_armed_for_the_current_block_are_sorted_in() -> None:
    wheel: TimerWheel[int] = TimerWheel()
    for key in range(500):
        wheel.arm(key, 2 * key)
    assert wheel.pop(99) == [*range(50)]

    wheel.arm(501, 103)  # few new keys
    assert wheel.next_due() == 100
    assert wheel.pop(103) == [50, 51, 501]

    for key in range(600, 1000):  # many new keys
        wheel.arm(key, key)
    assert [wheel.pop(tick) for tick in (599, 600, 601)] == [[*range(52, 300)], [300, 600], [601]]


def test_arming_and_popping_create_no_object_that_the_garbage_collector_tracks() -> None:
    """A collection that visits a million tracked objects would pause the reactor for a quarter of a second."""
    wheel: TimerWheel[int] = TimerWheel()
    wheel.arm(-1, FIFTEEN_MINUTES)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for key in range(20_000):
            wheel.arm(key, key * 40)
        assert len(gc.get_objects()) <= before + 5
        wheel.pop(400_000)
        assert len(gc.get_objects()) <= before + 5
    finally:
        gc.enable()
