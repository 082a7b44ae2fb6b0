"""The circuit breaker changes its state as its table says, and counts few attempts during an outage."""

import math
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reactor.core.backoff import RETRY_AFTER_MAX_S
from reactor.core.circuit_breaker import CircuitBreaker

ROWS = [UUID(int=number) for number in range(20)]


def opened(at: float = 100.0, retry_after_s: float | None = None) -> CircuitBreaker:
    """Return a breaker that opened at time `at`, because rows 0 to 4 failed."""
    breaker = CircuitBreaker()
    for row in ROWS[:4]:
        assert not breaker.failed(at, row)
    assert breaker.allowance(at) is None
    assert not breaker.failed(at, ROWS[4], retry_after_s=retry_after_s)
    return breaker


def probing(at: float = 101.0) -> CircuitBreaker:
    """Return a breaker whose probe, row 5, started at time `at`."""
    breaker = opened()
    breaker.started(at, ROWS[5])
    return breaker


def test_a_closed_breaker_lets_any_number_start() -> None:
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


def test_one_row_that_always_fails_does_not_open_it() -> None:
    breaker = CircuitBreaker()

    assert not any(breaker.failed(now, ROWS[0]) for now in range(100))
    assert not breaker.is_open


def test_it_counts_members_and_not_rows() -> None:
    breaker = CircuitBreaker(threshold=2)

    assert not any(breaker.failed(0, row, member="one user") for row in ROWS)
    assert not breaker.is_open
    assert not breaker.failed(0, ROWS[0], member="another user")
    assert breaker.is_open


def test_a_shared_refusal_opens_it_immediately_and_is_not_counted() -> None:
    breaker = CircuitBreaker()

    assert breaker.failed(0, ROWS[0], is_shared=True)
    assert breaker.is_open


def test_only_the_probe_and_no_other_upload_may_start_while_it_is_open() -> None:
    breaker = probing(at=101)

    assert breaker.may_start(101, ROWS[5])
    assert not breaker.may_start(101, ROWS[6])


def test_a_success_clears_the_failures_before_it() -> None:
    breaker = CircuitBreaker()
    for row in ROWS[:4]:
        breaker.failed(0, row)
    breaker.succeeded(0)
    for row in ROWS[4:8]:
        breaker.failed(0, row)

    assert not breaker.is_open


def test_no_second_probe_starts_during_a_probe() -> None:
    breaker = probing()

    assert breaker.allowance(200) == 0
    assert breaker.retry_at is None
    assert breaker.is_open


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = probing()
    breaker.succeeded(102)

    assert breaker.allowance(102) is None
    assert not breaker.is_open


def test_a_failed_probe_is_not_counted_and_doubles_the_pause_up_to_its_maximum() -> None:
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


def test_a_success_resets_the_pause() -> None:
    breaker = probing(at=101)
    breaker.failed(101, ROWS[5])
    breaker.started(103, ROWS[6])
    breaker.succeeded(103)
    for row in ROWS[:5]:
        breaker.failed(200, row)

    assert breaker.retry_at == 201


def test_after_an_abandoned_probe_the_next_probe_may_start_immediately() -> None:
    breaker = probing(at=101)
    breaker.abandoned(102, ROWS[5])

    assert breaker.allowance(102) == 1


def test_abandoning_another_attempt_keeps_the_probe() -> None:
    breaker = probing()
    breaker.abandoned(102, ROWS[0])

    assert breaker.allowance(102) == 0


def test_a_late_failure_is_not_counted_and_does_not_change_the_pause() -> None:
    breaker = opened(at=100)

    assert breaker.failed(100.5, ROWS[9])
    assert breaker.retry_at == 101


def test_a_late_failure_during_a_probe_does_not_count_as_the_probes_result() -> None:
    breaker = probing()

    assert breaker.failed(102, ROWS[9])
    assert breaker.allowance(102) == 0
    breaker.succeeded(103)
    assert not breaker.is_open


def test_a_late_success_closes_it() -> None:
    breaker = opened()
    breaker.succeeded(100.5)

    assert breaker.allowance(100.5) is None


def test_an_attempt_that_starts_during_the_pause_is_not_the_probe() -> None:
    breaker = opened(at=100)
    breaker.started(100.5, ROWS[7])

    assert breaker.allowance(101) == 1
    assert breaker.failed(101, ROWS[7])
    assert breaker.retry_at == 101


@pytest.mark.parametrize(
    ("retry_after_s", "pause_s"),
    [(30.0, 30), (0.1, 1), (-5.0, 1), (math.nan, 1), (math.inf, RETRY_AFTER_MAX_S)],
)
def test_a_longer_retry_after_wins_up_to_an_hour(retry_after_s: float, pause_s: float) -> None:
    assert opened(at=100, retry_after_s=retry_after_s).retry_at == 100 + pause_s


def test_a_late_failures_retry_after_extends_the_pause_and_never_shortens_it() -> None:
    breaker = opened(at=100, retry_after_s=20)
    breaker.failed(101, ROWS[8], retry_after_s=60)
    breaker.failed(102, ROWS[9], retry_after_s=3)

    assert breaker.retry_at == 161


def test_a_failed_probes_retry_after_wins_over_the_doubled_pause() -> None:
    breaker = probing(at=101)
    breaker.failed(102, ROWS[5], retry_after_s=60)

    assert breaker.retry_at == 162


def test_one_failure_opens_a_breaker_with_threshold_1_and_its_pause_may_be_constant() -> None:
    breaker = CircuitBreaker(threshold=1, first_pause_s=5, max_pause_s=5)
    breaker.failed(100, ROWS[0])

    assert breaker.retry_at == 105


class Outages(RuleBasedStateMachine):
    """Simulate a store with outages: start attempts that the breaker allows, and report each result to it."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(threshold=3)
        self.now = 0.0
        self.in_flight: list[UUID] = []
        self.counted: list[UUID] = []
        self.probes: set[UUID] = set()

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(row=st.sampled_from(ROWS))
    def start(self, row: UUID) -> None:
        allowed = self.breaker.allowance(self.now)
        if allowed == 0 or row in self.in_flight:
            return
        self.in_flight.append(row)
        self.breaker.started(self.now, row)
        if allowed == 1:
            self.probes.add(row)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data(), retry_after_s=st.none() | st.floats())
    def fail(self, data: st.DataObject, retry_after_s: float | None) -> None:
        row = self.end(data)
        was_open = self.breaker.is_open
        is_uncounted = self.breaker.failed(self.now, row, retry_after_s=retry_after_s)
        assert is_uncounted == was_open
        if not is_uncounted:
            self.counted.append(row)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.end(data)
        self.breaker.succeeded(self.now)
        self.counted.clear()
        self.probes.clear()
        assert self.breaker.allowance(self.now) is None

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.breaker.abandoned(self.now, self.end(data))

    def end(self, data: st.DataObject) -> UUID:
        row = data.draw(st.sampled_from(self.in_flight))
        self.in_flight.remove(row)
        self.probes.discard(row)
        return row

    @invariant()
    def during_an_outage_attempts_of_at_most_threshold_rows_are_counted(self) -> None:
        assert len(set(self.counted)) <= 3

    @invariant()
    def there_is_at_most_one_probe(self) -> None:
        assert len(self.probes) <= 1

    @invariant()
    def an_open_breaker_without_a_probe_allows_a_probe_within_the_longest_retry_after(self) -> None:
        if self.breaker.is_open and not self.probes:
            then = self.breaker.retry_at
            assert then is not None
            assert then <= self.now + RETRY_AFTER_MAX_S
            assert self.breaker.allowance(then) == 1


TestOutages = Outages.TestCase
TestOutages.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
