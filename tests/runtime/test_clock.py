"""Ticks and moments must agree to the last bit: who is woken too early by one only waits again."""

import math

import pytest
from anyio import CancelScope

from reactor.runtime.clock import TICKS_PER_S, Clock


@pytest.mark.parametrize("first", [0, 1_045_350, 10**9, 10**12])
async def test_who_is_woken_by_an_alarm_finds_that_its_tick_has_come(first: int) -> None:
    for tick in range(first, first + 2_000):
        alarm = Clock().alarm(tick)
        assert isinstance(alarm, CancelScope)
        assert math.floor(alarm.deadline * TICKS_PER_S) == tick
