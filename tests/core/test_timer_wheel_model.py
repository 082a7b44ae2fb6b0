"""The timer wheel behaves like a simple model: a dictionary that maps keys to due ticks."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reactor.core.timer_slots import _UNUSED_NUMBERS_MAX, BITS
from reactor.core.timer_wheel import TimerWheel

BLOCK = 1 << BITS
KEYS = st.integers(0, 12)
TICKS = st.one_of(
    st.integers(0, 40),
    st.integers(0, 5_000),
    st.integers(0, 2_000_000),
    st.sampled_from([BLOCK**power + offset for power in (1, 2, 3, 4) for offset in (-1, 0, 1)]),
    st.integers(0, 10**30),
)


class WheelAgainstDict(RuleBasedStateMachine):
    @initialize(start=TICKS)
    def begin(self, start: int) -> None:
        self.wheel: TimerWheel[int] = TimerWheel(start)
        self.model: dict[int, int] = {}
        self.clock = start

    @rule(key=KEYS, ahead=TICKS)
    def arm(self, key: int, ahead: int) -> None:
        self.wheel.arm(key, self.clock + ahead)
        self.model[key] = self.clock + ahead

    @rule(key=KEYS, ago=TICKS)
    def arm_late(self, key: int, ago: int) -> None:
        self.wheel.arm(key, self.clock - ago)
        self.model[key] = max(self.clock - ago, self.wheel.now)

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) == (self.model.pop(key, None) is not None)

    @rule(step=TICKS)
    def pop_everything_due(self, step: int) -> None:
        self.clock += step
        self.check(self.wheel.pop(self.clock), sum(due <= self.clock for due in self.model.values()))
        assert self.wheel.now == self.clock

    @rule(step=TICKS, limit=st.integers(0, 5))
    def pop_with_limit(self, step: int, limit: int) -> None:
        self.clock += step
        count = sum(due <= self.clock for due in self.model.values())
        self.check(self.wheel.pop(self.clock, limit), min(limit, count))

    @rule()
    def sleep_until_a_key_is_due(self) -> None:
        for _ in range(2):
            tick = self.wheel.next_due()
            if tick is None:
                assert not self.model
                return
            self.clock = max(self.clock, tick)
            if popped := self.wheel.pop(self.clock):
                self.check(popped, len(popped))
                return
        raise AssertionError("popped no key at two successive due ticks")

    def check(self, popped: list[int], count: int) -> None:
        """Check that the `count` earliest keys were popped, in order of their due ticks, and were due."""
        dues = [self.model.pop(key) for key in popped]
        assert len(popped) == count
        assert dues == sorted(dues)
        assert all(due <= self.clock for due in dues)
        assert not dues or all(due >= dues[-1] for due in self.model.values())

    @invariant()
    def it_holds_the_keys_of_the_model(self) -> None:
        assert len(self.wheel) == len(self.model)
        assert all(self.wheel.due_ticks.get(key) == self.model.get(key) for key in range(13))
        assert all((key in self.wheel.due_ticks) == (key in self.model) for key in range(13))

    # not an invariant: next_due() removes unused heap numbers, and would do so before each other rule
    @rule()
    def next_due_is_never_later_than_the_earliest(self) -> None:
        tick = self.wheel.next_due()
        earliest = min(self.model.values(), default=None)
        if tick is None or earliest is None:
            assert tick is earliest
        elif earliest >> BITS == self.wheel.now >> BITS:
            assert tick == earliest
        else:
            assert tick == earliest >> BITS << BITS

    @invariant()
    def no_armed_key_is_due_before_now(self) -> None:
        assert all(due >= self.wheel.now for due in self.wheel.due_ticks.values())

    @invariant()
    def each_armed_key_has_one_entry_where_it_belongs_that_is_not_counted_as_stale(self) -> None:
        later, current = self.wheel._later, self.wheel._current
        remaining = [*zip(current.keys, current.ticks, strict=True)][len(current.keys) - len(current) :]
        live: Counter[int] = Counter()
        in_current = 0
        for key, due in self.wheel.due_ticks.items():
            if due >> BITS > self.wheel.now >> BITS:
                assert key in later.slots[due >> BITS]
                live[due >> BITS] += 1
            else:
                assert (key, due) in remaining
                in_current += 1
        assert live == {number: len(slot) - later.stale.get(number, 0) for number, slot in later.slots.items()}
        assert in_current == len(current) - current.stale

    @invariant()
    def in_no_slot_do_stale_entries_outnumber_live_ones(self) -> None:
        later = self.wheel._later
        assert later.stale.keys() <= later.slots.keys()
        assert all(2 * later.stale.get(number, 0) <= len(slot) > 0 for number, slot in later.slots.items())

    @invariant()
    def ticks_ascend_up_to_the_sorted_mark(self) -> None:
        current = self.wheel._current
        ticks = current.ticks[current._next : current._sorted]
        assert ticks == sorted(ticks)

    @invariant()
    def the_heap_has_the_number_of_each_slot_and_few_others(self) -> None:
        numbers, slots = self.wheel._later._numbers, self.wheel._later.slots
        assert set(numbers) >= slots.keys()
        assert all(numbers[(child - 1) // 2] <= numbers[child] for child in range(1, len(numbers)))
        assert len(numbers) <= 2 * (len(slots) + 1) + _UNUSED_NUMBERS_MAX


TestWheelAgainstDict = WheelAgainstDict.TestCase
TestWheelAgainstDict.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
