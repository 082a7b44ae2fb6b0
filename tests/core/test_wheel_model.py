"""The wheel against the obviously right thing: a dictionary, sorted when asked."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reactor.core.wheel import _SLOTS, Wheel

KEYS = st.integers(0, 12)
TICKS = st.one_of(
    st.integers(0, 40),
    st.integers(0, 5_000),
    st.integers(0, 2_000_000),
    st.sampled_from([_SLOTS**power + offset for power in (1, 2, 3, 4) for offset in (-1, 0, 1)]),
    st.integers(0, 10**30),
)


class WheelAgainstDict(RuleBasedStateMachine):
    @initialize(start=TICKS)
    def begin(self, start: int) -> None:
        self.wheel: Wheel[int] = Wheel(start)
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
        levels = len(self.wheel._levels)
        for _ in range(levels):
            tick = self.wheel.next_due()
            if tick is None:
                assert not self.model
                return
            self.clock = max(self.clock, tick)
            if popped := self.wheel.pop(self.clock):
                self.check(popped, len(popped))
                return
        raise AssertionError("woke for nothing more than once a level")

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

    @rule()  # no invariant: asking drops stale entries, and some should live until their slot is reached
    def next_due_is_never_later_than_the_earliest(self) -> None:
        tick = self.wheel.next_due()
        earliest = min(self.model.values(), default=None)
        if tick is None or earliest is None:
            assert tick is earliest
        else:
            assert self.wheel.now <= tick <= earliest
            assert tick == earliest or earliest // _SLOTS != self.wheel.now // _SLOTS

    @invariant()
    def no_armed_key_is_due_before_now(self) -> None:
        assert all(due >= self.wheel.now for due in self.wheel._due.values())

    @invariant()
    def there_are_as_many_entries_as_armed_keys_and_stale_entries_together(self) -> None:
        in_slots = sum(len(slot) for level in self.wheel._levels for slot in level.slots)
        assert len(self.wheel._ready) + in_slots == len(self.wheel) + self.wheel._stale

    @invariant()
    def bit_i_is_set_exactly_when_slot_i_has_entries(self) -> None:
        for level in self.wheel._levels:
            assert level.occupied == sum(1 << index for index, slot in enumerate(level.slots) if slot)


TestWheelAgainstDict = WheelAgainstDict.TestCase
TestWheelAgainstDict.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
