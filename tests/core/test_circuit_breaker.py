"""What the circuit breaker promises: its table of moves, and that an outage costs little."""

import math
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.core.circuit_breaker import RETRY_AFTER_MAX_S, CircuitBreaker

ROWS = [UUID(int=number) for number in range(20)]


def opened(at: float = 100.0, retry_after_s: float | None = None) -> CircuitBreaker:
    """Return a breaker that rows 0 to 4 opened at time `at`."""
    breaker = CircuitBreaker()
    for row in ROWS[:4]:
        assert not breaker.failed(at, row)
    assert breaker.allowance(at) is None
    assert not breaker.failed(at, ROWS[4], retry_after_s)
    return breaker


def probing(at: float = 101.0) -> CircuitBreaker:
    """Return a breaker whose probe, row 5, left at time `at`."""
    breaker = opened()
    breaker.started(at, ROWS[5])
    return breaker


def test_closed_any_number_may_start() -> None:
    breaker = CircuitBreaker()

    assert breaker.allowance(0) is None
    assert breaker.retry_at is None
    assert not breaker.is_open


def test_failures_of_enough_different_rows_open_it() -> None:
    breaker = opened(at=100)

    assert breaker.is_open
    assert breaker.retry_at == 101
    assert breaker.allowance(100.9) == 0
    assert breaker.allowance(101) == 1


def test_one_row_that_fails_for_ever_does_not_open_it() -> None:
    breaker = CircuitBreaker()

    assert not any(breaker.failed(now, ROWS[0]) for now in range(100))
    assert not breaker.is_open


def test_a_success_forgets_the_failures_before_it() -> None:
    breaker = CircuitBreaker()
    for row in ROWS[:4]:
        breaker.failed(0, row)
    breaker.succeeded(0)
    for row in ROWS[4:8]:
        breaker.failed(0, row)

    assert not breaker.is_open


def test_one_probe_at_a_time() -> None:
    breaker = probing()

    assert breaker.allowance(200) == 0
    assert breaker.retry_at is None
    assert breaker.is_open


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = probing()
    breaker.succeeded(102)

    assert breaker.allowance(102) is None
    assert not breaker.is_open


def test_a_probe_that_fails_is_unspent_and_doubles_the_pause_up_to_the_longest() -> None:
    breaker = opened(at=0)
    pauses = []
    for row in ROWS[5:11]:
        now = breaker.retry_at
        assert now is not None
        breaker.started(now, row)
        assert breaker.failed(now, row)
        assert breaker.retry_at is not None
        pauses.append(breaker.retry_at - now)

    assert pauses == [2, 4, 8, 10, 10, 10]


def test_after_a_success_the_pause_begins_small_again() -> None:
    breaker = probing(at=101)
    breaker.failed(101, ROWS[5])
    breaker.started(103, ROWS[6])
    breaker.succeeded(103)
    for row in ROWS[:5]:
        breaker.failed(200, row)

    assert breaker.retry_at == 201


def test_an_abandoned_probe_lets_the_next_go_at_once() -> None:
    breaker = probing(at=101)
    breaker.abandoned(102, ROWS[5])

    assert breaker.allowance(102) == 1


def test_abandoning_another_attempt_leaves_the_probe_alone() -> None:
    breaker = probing()
    breaker.abandoned(102, ROWS[0])

    assert breaker.allowance(102) == 0


def test_a_late_failure_is_unspent_and_changes_no_pause() -> None:
    breaker = opened(at=100)

    assert breaker.failed(100.5, ROWS[9])
    assert breaker.retry_at == 101


def test_a_late_failure_while_a_probe_is_out_does_not_stand_for_the_probe() -> None:
    breaker = probing()

    assert breaker.failed(102, ROWS[9])
    assert breaker.allowance(102) == 0
    breaker.succeeded(103)
    assert not breaker.is_open


def test_a_late_success_closes_it() -> None:
    breaker = opened()
    breaker.succeeded(100.5)

    assert breaker.allowance(100.5) is None


def test_an_attempt_that_starts_while_nothing_may_is_no_probe() -> None:
    breaker = opened(at=100)
    breaker.started(100.5, ROWS[7])

    assert breaker.allowance(101) == 1
    assert breaker.failed(101, ROWS[7])
    assert breaker.retry_at == 101


@pytest.mark.parametrize(
    ("wish", "pause_s"),
    [(30.0, 30), (0.1, 1), (-5.0, 1), (math.nan, 1), (math.inf, RETRY_AFTER_MAX_S)],
)
def test_a_longer_retry_after_wins_up_to_ten_minutes(wish: float, pause_s: float) -> None:
    assert opened(at=100, retry_after_s=wish).retry_at == 100 + pause_s


def test_a_retry_after_of_a_late_failure_is_honoured_and_never_cut_short() -> None:
    breaker = opened(at=100, retry_after_s=20)
    breaker.failed(101, ROWS[8], retry_after_s=60)
    breaker.failed(102, ROWS[9], retry_after_s=3)

    assert breaker.retry_at == 161


@pytest.mark.parametrize("arguments", [(0, 1, 10), (5, 0, 10), (5, 11, 10), (5, math.nan, 10)])
def test_arguments_out_of_range_are_refused(arguments: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CircuitBreaker(*arguments)


class Outages(RuleBasedStateMachine):
    """A store that goes and comes back, and a caller that starts what it may and tells how it went."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(threshold=3)
        self.now = 0.0
        self.flying: list[UUID] = []
        self.charged: list[UUID] = []
        self.probes: set[UUID] = set()

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(row=st.sampled_from(ROWS))
    def start(self, row: UUID) -> None:
        allowed = self.breaker.allowance(self.now)
        if allowed == 0 or row in self.flying:
            return
        self.flying.append(row)
        self.breaker.started(self.now, row)
        if allowed == 1:
            self.probes.add(row)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), retry_after_s=st.none() | st.floats())
    def fail(self, data: st.DataObject, retry_after_s: float | None) -> None:
        row = self.land(data)
        was_open = self.breaker.is_open
        unspent = self.breaker.failed(self.now, row, retry_after_s)
        assert unspent == was_open
        if not unspent:
            self.charged.append(row)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.land(data)
        self.breaker.succeeded(self.now)
        self.charged.clear()
        self.probes.clear()
        assert self.breaker.allowance(self.now) is None

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.breaker.abandoned(self.now, self.land(data))

    def land(self, data: st.DataObject) -> UUID:
        row = data.draw(st.sampled_from(self.flying))
        self.flying.remove(row)
        self.probes.discard(row)
        return row

    @invariant()
    def in_any_outage_at_most_threshold_rows_are_charged(self) -> None:
        assert len(set(self.charged)) <= 3

    @invariant()
    def there_is_at_most_one_probe(self) -> None:
        assert len(self.probes) <= 1

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """Open without a probe, there is a time, not far off, at which one may go."""
        if self.breaker.is_open and not self.probes:
            then = self.breaker.retry_at
            assert then is not None
            assert then <= self.now + RETRY_AFTER_MAX_S
            assert self.breaker.allowance(then) == 1


TestOutages = Outages.TestCase
TestOutages.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
