"""Conversions between ticks and seconds are exact. Otherwise a task could wake before its tick and wait again."""

import math

import pytest
from anyio import CancelScope

from reactor.runtime.clock import TICKS_PER_S, Clock


@pytest.mark.parametrize("first", [0, 1_045_350, 10**9, 10**12])
async def test_the_tick_has_come_when_its_alarm_ends_the_wait(first: int) -> None:
    for tick in range(first, first + 2_000):
        alarm = Clock().alarm(tick)
        assert isinstance(alarm, CancelScope)
        assert math.floor(alarm.deadline * TICKS_PER_S) == tick
