"""The wheel against the obviously right thing: a dictionary, sorted when asked."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reactor.core.timer_slots import _FEW, BITS
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
    def pop_some(self, step: int, limit: int) -> None:
        self.clock += step
        count = sum(due <= self.clock for due in self.model.values())
        self.check(self.wheel.pop(self.clock, limit), min(limit, count))

    @rule()
    def sleep_until_something_is_due(self) -> None:
        for _ in range(2):
            tick = self.wheel.next_due()
            if tick is None:
                assert not self.model
                return
            self.clock = max(self.clock, tick)
            if popped := self.wheel.pop(self.clock):
                self.check(popped, len(popped))
                return
        raise AssertionError("woke for nothing more than once")

    def check(self, popped: list[int], count: int) -> None:
        """Keys due by now, each once, in order of their due ticks."""
        dues = [self.model.pop(key) for key in popped]
        assert len(popped) == count
        assert dues == sorted(dues)
        assert all(due <= self.clock for due in dues)
        assert not dues or all(due >= dues[-1] for due in self.model.values())

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert len(self.wheel) == len(self.model)
        assert all(self.wheel.due_of(key) == self.model.get(key) for key in range(13))
        assert all((key in self.wheel) == (key in self.model) for key in range(13))

    @rule()  # no invariant: asking drops what is left of slots that are gone, and some should live on
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
        assert all(due >= self.wheel.now for due in self.wheel._due.values())

    @invariant()
    def each_armed_key_has_one_entry_where_it_belongs_that_is_not_counted_as_stale(self) -> None:
        blocks, present = self.wheel._blocks, self.wheel._present
        to_come = [*zip(present.keys, present.ticks, strict=True)][len(present.keys) - len(present) :]
        live: Counter[int] = Counter()
        here = 0
        for key, due in self.wheel._due.items():
            if due >> BITS > self.wheel.now >> BITS:
                assert key in blocks.slots[due >> BITS]
                live[due >> BITS] += 1
            else:
                assert (key, due) in to_come
                here += 1
        assert live == {number: len(slot) - blocks.stale.get(number, 0) for number, slot in blocks.slots.items()}
        assert here == len(present) - present.stale

    @invariant()
    def in_no_slot_do_stale_entries_outnumber_live_ones(self) -> None:
        blocks = self.wheel._blocks
        assert blocks.stale.keys() <= blocks.slots.keys()
        assert all(2 * blocks.stale.get(number, 0) <= len(slot) > 0 for number, slot in blocks.slots.items())

    @invariant()
    def ticks_ascend_as_far_as_they_are_said_to(self) -> None:
        present = self.wheel._present
        ordered = present.ticks[present._next : present._ordered]
        assert ordered == sorted(ordered)

    @invariant()
    def the_heap_has_each_slots_number_and_not_many_others(self) -> None:
        numbers, slots = self.wheel._blocks._numbers, self.wheel._blocks.slots
        assert set(numbers) >= slots.keys()
        assert all(numbers[(child - 1) // 2] <= numbers[child] for child in range(1, len(numbers)))
        assert len(numbers) <= 2 * (len(slots) + 1) + _FEW


TestWheelAgainstDict = WheelAgainstDict.TestCase
TestWheelAgainstDict.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
