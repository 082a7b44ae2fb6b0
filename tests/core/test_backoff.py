"""Delays double up to a cap and have jitter. The store's Retry-After, up to an hour, makes a delay longer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.backoff import RETRY_AFTER_MAX_S, Backoff, honoured_retry_after_s

DEFAULT = Backoff(30, 2, 600, 0.1)
U = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("retry", "delay_s"), [(1, 30), (2, 60), (3, 120), (4, 240), (5, 480), (6, 600), (99, 600)])
def test_each_delay_is_twice_the_one_before_up_to_the_cap(retry: int, delay_s: float) -> None:
    assert DEFAULT.delay_s(retry, u=0.5) == delay_s


@given(retry=st.integers(1, 10**6), u=U)
def test_jitter_changes_a_delay_by_at_most_its_fraction(retry: int, u: float) -> None:
    middle = DEFAULT.delay_s(retry, u=0.5)

    assert middle * 0.9 <= DEFAULT.delay_s(retry, u) <= middle * 1.1


def test_jitter_spreads_delays_at_the_cap_to_both_sides() -> None:
    assert DEFAULT.delay_s(50, u=0) == pytest.approx(540)
    assert DEFAULT.delay_s(50, u=0.75) == pytest.approx(630)


@given(retry=st.integers(1, 2**31), factor=st.floats(1, 1e300), max_s=st.floats(1, 1e300))
def test_no_retry_number_overflows(retry: int, factor: float, max_s: float) -> None:
    assert 1 <= Backoff(1, factor, max_s, 0).delay_s(retry, u=0) <= max_s


def test_a_longer_retry_after_wins() -> None:
    assert DEFAULT.delay_s(1, u=0.5, retry_after_s=120) == 120
    assert DEFAULT.delay_s(3, u=0.5, retry_after_s=5) == 120
    assert Backoff(0.1, 2, 600, 0).delay_s(1, u=0, retry_after_s=0.5) == 0.5


def test_a_retry_after_is_honoured_up_to_an_hour() -> None:
    assert RETRY_AFTER_MAX_S == 3600
    assert DEFAULT.delay_s(1, u=0.5, retry_after_s=3599) == 3599
    assert DEFAULT.delay_s(1, u=0.5, retry_after_s=math.inf) == RETRY_AFTER_MAX_S


@pytest.mark.parametrize("retry_after_s", [None, math.nan, -1.0, -math.inf, 0.0])
def test_a_retry_after_that_is_no_duration_is_ignored(retry_after_s: float | None) -> None:
    assert honoured_retry_after_s(retry_after_s) == 0
    assert DEFAULT.delay_s(1, u=0.5, retry_after_s=retry_after_s) == 30
