"""kill -9, at the points where it hurts most and at random: nothing is lost, nothing is done twice."""

import random
import time

import pytest
from support.chaos.crash_point import POINTS
from support.chaos.final_check import wait_until_drained
from support.chaos.harness import Fleet, Harness, figure
from support.chaos.load import loading

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

AT_ONCE = 16 * 4
"""Most uploads that were settled and not yet removed from the spool when a reactor of 16 puts at once was killed."""


@pytest.mark.parametrize("point", POINTS)
def test_what_a_reactor_held_that_was_killed_there_is_done_once(point: str, harness: Harness, reactors: Fleet) -> None:
    load = harness.load(pace_s=0.02)
    dying = reactors.start_with_crash_point(point)
    dying.wait_until_ready()
    with loading(load, workers=0):
        if point == "reconnecting":
            assert harness.terminate_sessions("reactor-listen") == 1
        assert dying.process.wait(60) == -9, dying.log
    reactors.start().wait_until_ready()
    findings = harness.check(load)
    assert findings.stored
    assert findings.dead == 0
    assert len(findings.left_in_spool) <= (AT_ONCE if point in {"settled", "reconnecting"} else 0)


@pytest.mark.chaos
def test_killed_at_random_again_and_again_two_reactors_lose_nothing(harness: Harness, reactors: Fleet) -> None:
    chance = random.Random(5)
    load = harness.load()
    runs = [reactors.start(), reactors.start()]
    with loading(load, uploaders=2, workers=2):
        for _ in range(30):
            time.sleep(chance.uniform(0.2, 3.0))
            victim = chance.randrange(2)
            runs[victim].kill()
            runs[victim] = reactors.start()
    findings = harness.check(load)
    assert findings.stored > 100
    assert findings.dead == 0
    counts = load.history.counts()
    assert counts["failed"] == counts["unknown"] == 0


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["claimed", "mid-put", "put", "settled"])
def test_killed_there_again_and_again_reactors_lose_nothing(point: str, harness: Harness, reactors: Fleet) -> None:
    chance = random.Random(point)
    load = harness.load()
    with loading(load, uploaders=2, workers=1):
        for _ in range(8):
            dying = reactors.start_with_crash_point(point, chance.randrange(1, 12))
            assert dying.process.wait(60) == -9, dying.log
    reactors.start()
    findings = harness.check(load)
    assert findings.dead == 0
    assert len(findings.left_in_spool) <= 8 * AT_ONCE  # whatever it was killed at, others may have just been settled


@pytest.mark.chaos
def test_a_reactor_that_dies_costs_others_its_lease_and_five_seconds_at_most(harness: Harness, reactors: Fleet) -> None:
    """The survivor never heard of the uploads: it must notice that the other is gone."""
    load = harness.load(pace_s=0.0)
    survivor = reactors.start(LEASE="30s")
    survivor.wait_until_ready()
    harness.drop_triggers()
    with loading(load, workers=0):
        load.wait_for(40)
    dying = reactors.start_with_crash_point("mid-put", 5, LEASE="30s")
    assert dying.process.wait(60) == -9
    took_s = wait_until_drained(harness.url, within_s=60.0)
    figure("a reactor killed, its uploads unknown to the others: all stored after, s", took_s)
    assert took_s <= 30.0 + 5.0
    harness.check(load)
