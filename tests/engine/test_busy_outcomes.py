"""Busy outcomes wait for moments, in batches, and hold up no other user."""

import math
from collections.abc import Sequence

from anyio import create_task_group
from support.manual_clock import ManualClock, idle_event
from support.worker_harness import STORED, signals

from reactor.core.model import Outcome, Signal
from reactor.engine.busy_outcomes import BusyOutcomes
from reactor.reactions.base import Attempt

Outcomes = list[tuple[Attempt, Outcome]]


def ended(rows: Sequence[Signal], *, lease_until: float = math.inf) -> Outcomes:
    return [(Attempt(signal=row, tenant=row.tenant, lease_until=lease_until), STORED) for row in rows]


async def test_outcomes_are_returned_after_a_delay_that_grows() -> None:
    clock = ManualClock()
    busy, outcomes = BusyOutcomes[Attempt](clock), ended(signals(3))
    taken: list[float] = []

    async def take_and_add() -> None:
        while True:
            assert await busy.take(500) == outcomes
            taken.append(clock.now())
            busy.add(outcomes)

    async with create_task_group() as tasks:
        busy.add(outcomes)
        began = clock.now()
        tasks.start_soon(take_and_add)
        await idle_event()
        assert taken == []
        for _ in range(200):
            clock.advance(0.01)
            await idle_event()
        tasks.cancel_scope.cancel()
    gaps = [after - before for before, after in zip([began, *taken], taken, strict=False)]
    assert gaps[0] < 0.04
    assert 0.1 < gaps[-1] < 0.15
    assert 15 <= len(taken) <= 40


async def test_only_outcomes_of_users_without_busy_ones_are_settled_now() -> None:
    busy = BusyOutcomes[Attempt](ManualClock())
    [locked], same, other = ended(signals(1, tenant=1)), ended(signals(2, tenant=1)), ended(signals(2, tenant=2))
    assert busy.divide([*same, *other]) == ([*same, *other], [])
    busy.add([locked])
    assert busy.divide([*same, *other]) == (other, same)


async def test_the_oldest_are_taken_first_and_the_rest_at_once_afterwards() -> None:
    clock = ManualClock()
    busy, outcomes = BusyOutcomes[Attempt](clock), ended(signals(5))
    busy.add(outcomes)
    clock.advance(0.02)
    assert await busy.take(3) == outcomes[:3]
    assert await busy.take(3) == outcomes[3:]
    assert len(busy) == 0


async def test_outcomes_expire_with_their_lease() -> None:
    busy, old, new = BusyOutcomes[Attempt](ManualClock()), ended(signals(1), lease_until=5.0), ended(signals(1))
    busy.add([*old, *new])
    assert busy.expire(5.0) == []
    assert busy.expire(5.1) == [attempt for attempt, _ in old]
    assert busy.expire(math.inf) == []
    assert len(busy) == 1
