"""A locked row is tried again within tens of milliseconds, with backoff, and many locked rows stay cheap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.lock_backoff import LockBackoff


def test_the_delay_is_a_quarter_of_the_time_locked_between_two_limits() -> None:
    backoff = LockBackoff[int]()
    delays = [backoff.delay_s([1], now) for now in (100.0, 100.02, 100.2, 100.4, 101.0, 200.0)]
    assert delays == pytest.approx([0.02, 0.02, 0.05, 0.1, 0.12, 0.12])


def test_a_row_that_is_locked_again_later_begins_anew() -> None:
    backoff = LockBackoff[int]()
    backoff.delay_s([1], 100.0)
    backoff.forget([1, 2])
    assert len(backoff) == 0
    assert backoff.delay_s([1], 200.0) == 0.02


def test_a_batch_follows_the_row_that_was_locked_last() -> None:
    backoff = LockBackoff[int]()
    backoff.delay_s([1], 100.0)
    assert backoff.delay_s([1, 2], 150.0) == 0.02


def test_many_locked_rows_are_tried_more_slowly() -> None:
    backoff = LockBackoff[int]()
    assert backoff.delay_s(range(5_000), 0.0) == pytest.approx(1.0)
    assert backoff.delay_s([1], 0.1) == pytest.approx(1.0)  # the other 4 999 are still locked
    backoff.forget(range(2, 5_000))
    assert backoff.delay_s([1], 0.2) == pytest.approx(0.05)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=50).map(sorted))
def test_a_lone_row_is_tried_within_120_ms_of_its_release(tries: list[float]) -> None:
    backoff = LockBackoff[int]()
    delays = [backoff.delay_s([1], now) for now in tries]
    assert min(delays) >= 0.02
    assert max(delays) <= 0.12
    assert delays == sorted(delays)
