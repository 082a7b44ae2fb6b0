"""The schedule puts due signals into their ready queues. Sweeps find the rows that are beyond its capacity."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from anyio import create_task_group
from support.manual_clock import ManualClock, idle_event
from support.recorder import Recorder

from reactor.core.events import TimerFired
from reactor.core.model import Due, Signal
from reactor.core.rendezvous import STEP_S
from reactor.engine.requests import ReconcileRequests
from reactor.engine.schedule import ReadyQueue, Schedule
from reactor.postgres.notification import Hint
from reactor.reactions.base import DirectReaction, Sweep

HORIZON_S = 60.0


def new_signal(reaction: str = "uploads", tenant: int = 1) -> Signal:
    return Signal(reaction, uuid4().int, tenant)


class Hinted(DirectReaction):
    """A reaction that takes the due times of its rows from their hints."""

    name = "uploads"
    channel = "reactor_uploads"

    def due_at(self, hint: Hint) -> float | None:
        return None if hint.due_ms is None else hint.due_ms / 1000

    async def sweep(self, horizon_s: float) -> Sweep:
        raise NotImplementedError

    async def act(self, signals: Sequence[Signal]) -> Sequence[Due]:
        raise NotImplementedError


class ScheduleHarness:
    """A schedule with two ready queues and a manual clock."""

    def __init__(self, capacity: int = 1_000_000) -> None:
        self.clock = ManualClock()
        self.recorder = Recorder()
        self.ready_queues = {"uploads": ReadyQueue(), "runs": ReadyQueue()}
        self.schedule = Schedule(
            self.clock,
            self.ready_queues,
            ReconcileRequests(),
            horizon_s=HORIZON_S,
            emit=self.recorder,
            capacity=capacity,
        )
        self.reaction = Hinted()

    def arm(self, signal: Signal, in_s: float) -> None:
        self.schedule.arm([Due(signal, self.clock.database_now() + in_s)])

    def notify(self, signals: Sequence[Signal], due_in_ms: int | None) -> None:
        """Give the schedule the notifications that a trigger would send about these rows, 100 rows in each."""
        at_ms = round(1000 * self.clock.database_now())
        for first in range(0, len(signals), 100):
            rows = [[each.row_id.hex, each.tenant, due_in_ms] for each in signals[first : first + 100]]
            self.schedule.schedule_notified(self.reaction, json.dumps({"v": 1, "at": at_ms, "rows": rows}))

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await idle_event()

    def take(self, reaction: str = "uploads") -> list[Signal]:
        return self.ready_queues[reaction].queue.take(1_000_000)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with create_task_group() as tasks:
            tasks.start_soon(self.schedule.run)
            await idle_event()
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture
def harness() -> ScheduleHarness:
    return ScheduleHarness()


async def test_a_signal_is_offered_at_its_tick_and_not_before(harness: ScheduleHarness) -> None:
    signal = new_signal()
    async with harness.running():
        harness.arm(signal, 0.5)

        await harness.advance(0.499)
        assert harness.take() == []

        await harness.advance(0.001)
        assert harness.take() == [signal]


async def test_an_overdue_signal_is_offered_immediately(harness: ScheduleHarness) -> None:
    signal = new_signal()
    async with harness.running():
        harness.arm(signal, -3600.0)
        await idle_event()
        assert harness.take() == [signal]


async def test_a_shared_overdue_signal_is_offered_in_rendezvous_order(harness: ScheduleHarness) -> None:
    harness.schedule.rendezvous_order.set_members(uuid4(), [uuid4()])
    signals = [new_signal() for _ in range(100)]
    ours = [signal for signal in signals if not harness.schedule.rendezvous_order.delay_s(signal.row)]
    assert 0 < len(ours) < 100
    async with harness.running():
        now = harness.clock.database_now()
        others = [*harness.schedule.arm_own([Due(signal, now - 5.0) for signal in signals[::2]])]  # overdue by 5 s
        others += harness.schedule.arm_own([Due(signal, now) for signal in signals[1::2]])
        assert {signal for signal, _ in others} == set(signals) - set(ours)
        harness.schedule.take_over(others, now)
        await idle_event()
        assert set(harness.take()) == set(ours)

        await harness.advance(STEP_S - 0.001)
        assert harness.take() == []

        await harness.advance(0.002)
        assert set(harness.take()) == set(signals) - set(ours)


async def test_a_shared_signal_due_later_is_offered_in_rendezvous_order(harness: ScheduleHarness) -> None:
    harness.schedule.rendezvous_order.set_members(uuid4(), [uuid4()])
    signals = [new_signal() for _ in range(100)]
    ours = [signal for signal in signals if not harness.schedule.rendezvous_order.delay_s(signal.row)]
    async with harness.running():
        due_at = harness.clock.database_now() + 5.0
        assert harness.schedule.arm_own([Due(signal, due_at) for signal in signals]) == []
        await harness.advance(5.001)
        assert set(harness.take()) == set(ours)

        await harness.advance(STEP_S)
        assert set(harness.take()) == set(signals) - set(ours)


async def test_a_ready_queue_is_full_at_500_takeable_signals(harness: ScheduleHarness) -> None:
    async with harness.running():
        ready = harness.ready_queues["uploads"].queue
        for _ in range(499):
            harness.arm(new_signal(), -1.0)
        await idle_event()
        assert not harness.ready_queues["uploads"].is_full

        harness.arm(new_signal(), -1.0)
        await idle_event()
        assert harness.ready_queues["uploads"].is_full

        ready.per_tenant = 1
        ready.take(1)
        harness.arm(new_signal(), -1.0)
        await idle_event()
        assert not harness.ready_queues["uploads"].is_full, "full although all signals belong to a tenant at its cap"


async def test_a_notified_signal_of_another_reactor_is_yielded_only_by_a_reactor_with_enough_work(
    harness: ScheduleHarness,
) -> None:
    harness.schedule.rendezvous_order.set_members(uuid4(), [uuid4()])
    notified = [new_signal() for _ in range(100)]
    others = {signal for signal in notified if harness.schedule.rendezvous_order.delay_s(signal.row)}
    async with harness.running():
        harness.notify(notified, 0)
        assert harness.ready_queues["uploads"].first_yielded is None
        await harness.advance(STEP_S + 0.001)
        assert set(harness.take()) == set(notified)

        for _ in range(500):
            harness.arm(new_signal(), -1.0)
        await idle_event()
        harness.notify(notified, 0)
        assert harness.ready_queues["uploads"].first_yielded in others
        await harness.advance(STEP_S + 0.001)
        assert set(notified) - set(harness.take()) == others


async def test_a_signal_that_only_this_reactor_has_is_offered_without_a_rendezvous_delay(
    harness: ScheduleHarness,
) -> None:
    harness.schedule.rendezvous_order.set_members(uuid4(), [uuid4()])
    signals = [new_signal() for _ in range(50)]
    async with harness.running():
        for signal in signals:
            harness.arm(signal, 0.0)
        await idle_event()
        assert set(harness.take()) == set(signals)


async def test_an_offer_wakes_only_its_own_ready_queue(harness: ScheduleHarness) -> None:
    run = new_signal("runs")
    async with harness.running():
        harness.arm(run, 0.25)
        await harness.advance(0.25)

        assert harness.ready_queues["runs"].changed.is_set()
        assert not harness.ready_queues["uploads"].changed.is_set()
        assert harness.take("runs") == [run]
        assert harness.take("uploads") == []


@pytest.mark.parametrize(("first_s", "then_s"), [(0.5, 2.0), (2.0, 0.5), (0.25, 50.0), (50.0, 0.25)])
async def test_arming_again_moves_the_signal(harness: ScheduleHarness, first_s: float, then_s: float) -> None:
    signal = new_signal()
    async with harness.running():
        harness.arm(signal, first_s)
        await idle_event()
        harness.arm(signal, then_s)
        assert len(harness.schedule) == 1

        await harness.advance(then_s - 0.001)
        assert harness.take() == []
        await harness.advance(0.001)
        assert harness.take() == [signal]

        await harness.advance(HORIZON_S)
        assert harness.take() == []


async def test_a_signal_beyond_the_horizon_is_not_scheduled(harness: ScheduleHarness) -> None:
    inside, outside = new_signal(), new_signal()
    harness.arm(inside, HORIZON_S)
    harness.arm(outside, HORIZON_S + 0.5)
    assert harness.schedule.is_waiting(inside)
    assert not harness.schedule.is_waiting(outside)
    assert not harness.schedule.has_overflowed


async def test_a_signal_that_moves_beyond_the_horizon_is_dropped(harness: ScheduleHarness) -> None:
    signal = new_signal()
    async with harness.running():
        harness.arm(signal, 0.5)
        harness.arm(signal, HORIZON_S + 1.0)
        assert not harness.schedule.is_waiting(signal)
        await harness.advance(1.0)
        assert harness.take() == []


async def test_an_overflow_is_flagged_and_scheduled_signals_can_still_move() -> None:
    harness = ScheduleHarness(capacity=2)
    first, second, third = new_signal(), new_signal(), new_signal()
    harness.arm(first, 1.0)
    harness.arm(second, 1.0)
    assert not harness.schedule.has_overflowed

    harness.arm(third, 0.5)
    assert harness.schedule.has_overflowed
    assert not harness.schedule.is_waiting(third)

    async with harness.running():
        harness.arm(first, 2.0)
        await harness.advance(1.0)
        assert harness.take() == [second]
        await harness.advance(1.0)
        assert harness.take() == [first]


async def test_a_notification_never_makes_a_scheduled_row_due_later(harness: ScheduleHarness) -> None:
    """Any role can send a notification about any row."""
    scheduled, ready = new_signal(), new_signal()
    async with harness.running():
        harness.arm(scheduled, 1.0)
        harness.arm(ready, 0.0)
        harness.notify([scheduled, ready], 50_000)
        await idle_event()
        assert harness.take() == [ready]
        await harness.advance(1.0)
        assert harness.take() == [scheduled]


async def test_a_notification_makes_a_scheduled_row_due_earlier(harness: ScheduleHarness) -> None:
    soon, now = new_signal(), new_signal()
    async with harness.running():
        harness.arm(soon, 50.0)
        harness.arm(now, 50.0)
        harness.notify([soon], 1_000)
        harness.notify([now], 0)
        await idle_event()
        assert harness.take() == [now]
        await harness.advance(1.001)
        assert harness.take() == [soon]


async def test_a_notification_that_a_row_has_ended_makes_the_scheduled_row_be_checked(harness: ScheduleHarness) -> None:
    scheduled, ready, unknown = new_signal(), new_signal(), new_signal()
    async with harness.running():
        harness.arm(scheduled, 50.0)
        harness.arm(ready, 0.0)
        harness.notify([scheduled, ready, unknown], None)
        await idle_event()
        assert set(harness.take()) == {scheduled, ready}


async def test_a_sweep_reschedules_rows_that_are_scheduled_much_later_than_they_are_due(
    harness: ScheduleHarness,
) -> None:
    """A forged notification may have scheduled a row before anything else did."""
    forged, deferred = new_signal(), new_signal()
    async with harness.running():
        harness.notify([forged], 50_000)
        harness.arm(deferred, 10.0)
        due_at = harness.clock.database_now()
        harness.schedule.arm_late([Due(forged, due_at), Due(deferred, due_at)])
        await idle_event()
        assert harness.take() == [forged]


async def test_a_flood_is_offered_completely_and_in_order_of_time(harness: ScheduleHarness) -> None:
    """One call of the wheel doesn't return all these signals, so the schedule must call the wheel several times."""
    early = [new_signal() for _ in range(3_000)]
    late = [new_signal() for _ in range(2_500)]
    async with harness.running():
        for signal in late:
            harness.arm(signal, 1.0)
        for signal in early:
            harness.arm(signal, 0.5)
        harness.clock.advance(5.0)
        offered: list[Signal] = []
        while len(offered) < len(early) + len(late):
            await harness.ready_queues["uploads"].changed.wait()
            harness.ready_queues["uploads"].changed.clear()
            offered += harness.take()
        assert set(offered[: len(early)]) == set(early)
        assert set(offered[len(early) :]) == set(late)
        assert len(offered) == len(early) + len(late)


async def test_each_offer_emits_its_lateness(harness: ScheduleHarness) -> None:
    async with harness.running():
        harness.arm(new_signal(), 0.5)
        await idle_event()
        harness.clock.advance(0.75)
        fired = await harness.recorder.wait_for(TimerFired)
        assert fired.lag_s == pytest.approx(0.25, abs=0.002)


async def test_an_empty_schedule_sets_no_timer(harness: ScheduleHarness) -> None:
    """For any number of armed signals, the schedule sets one timer."""
    async with harness.running():
        assert harness.clock.awaited == []
        for number in range(1_000):
            harness.arm(new_signal(), 10.0 + number / 64)
        await idle_event()
        assert len(harness.clock.awaited) == 1
        await harness.advance(HORIZON_S)
        assert len(harness.take()) == 1_000
        assert harness.clock.awaited == []
