"""A repeated warning is logged the first time, then at growing intervals with a count. No cause hides another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.telemetry.repetition import Repetition, kind_of


class Time:
    """Monotonic seconds that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def lines(
    time: Time, repetition: Repetition, *, every_s: float, for_s: float, key: str = "k"
) -> list[tuple[float, int]]:
    """Let a fault occur regularly. Return when a line was logged, with the number of those left out before it."""
    began, logged = time.now, []
    while time.now - began < for_s:
        if (left_out := repetition.left_out(key)) is not None:
            logged.append((round(time.now - began, 1), left_out))
        time.now += every_s
    return logged


def test_the_first_is_logged_then_at_growing_intervals_with_a_count(time: Time) -> None:
    seen = lines(time, Repetition(time), every_s=0.5, for_s=3600)
    assert seen == [
        (0, 0),
        (1, 1),
        (11, 19),
        (71, 119),
        (671, 1199),
        (1271, 1199),
        (1871, 1199),
        (2471, 1199),
        (3071, 1199),
    ]


def test_a_rare_warning_is_always_logged(time: Time) -> None:
    assert [left for _, left in lines(time, Repetition(time), every_s=300, for_s=3000)] == [0] * 10


def test_different_faults_do_not_suppress_each_other(time: Time) -> None:
    repetition = Repetition(time)
    assert [repetition.left_out(key) for key in ("a", "b", "a", "c")] == [0, 0, None, 0]


def test_the_end_is_logged_once_with_the_duration(time: Time) -> None:
    repetition = Repetition(time)
    lines(time, repetition, every_s=0.5, for_s=12.0)
    assert repetition.ended_after_s() == pytest.approx(12.0)
    assert repetition.ended_after_s() is None
    assert Repetition(time).ended_after_s() is None


def test_only_the_faults_that_are_over_end(time: Time) -> None:
    repetition = Repetition(time)
    for key in ("a", "b"):
        repetition.left_out(key)
        time.now += 1.0
    assert repetition.ended_after_s(lambda key: key == "b") == pytest.approx(1.0)
    assert repetition.ended_after_s(lambda key: key == "a") == pytest.approx(2.0)


def test_a_new_outage_after_a_long_one_is_logged_soon(time: Time) -> None:
    repetition = Repetition(time)
    lines(time, repetition, every_s=1.0, for_s=3600)
    repetition.ended_after_s()
    time.now += 11.0
    assert repetition.left_out("k") is not None


@given(st.lists(st.floats(0.01, 3.0), min_size=200, max_size=400))
def test_a_fault_that_comes_and_goes_logs_few_lines(pauses: list[float]) -> None:
    time = Time()
    repetition, logged, began = Repetition(time), 0, time.now
    for pause in pauses:
        is_logged = repetition.left_out("k") is not None
        assert (repetition.ended_after_s() is not None) is is_logged  # an end is logged exactly if its beginning was
        logged += 2 * is_logged
        time.now += pause
    assert logged <= 6 + 2 * (time.now - began) / 10


def test_memory_is_bounded(time: Time) -> None:
    repetition = Repetition(time)
    for number in range(1_000):
        repetition.left_out(number)
    assert len(repetition._faults) == 200
    assert repetition.left_out(999) is None


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        (
            'connection to server at "127.0.0.1", port 5432 failed',
            'connection to server at "127.0.0.2", port 1 failed',
            True,
        ),
        ("terminating connection of process 41", "terminating connection of process 7", True),
        ("no row 0b0e7a55-7a43-4c8e-9a55-5f0f0a9e8a11", "no row 7c3a1f0e-1111-4c8e-9a55-5f0f0a9e8a11", True),
        ("violates check constraint check_1", "violates check constraint check_2", False),
        ("connection refused", "password authentication failed", False),
        ("SlowDown", "ExpiredToken", False),
    ],
)
def test_numbers_make_no_other_fault(one: str, other: str, are_alike: bool) -> None:
    assert (kind_of(one) == kind_of(other)) is are_alike
