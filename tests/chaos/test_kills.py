"""No upload is lost or stored twice if SIGKILL ends reactors, at critical points or at random."""

import random
import time

import pytest
from support.chaos.crash_point import POINTS
from support.chaos.final_check import wait_until_drained
from support.chaos.harness import Fleet, Harness, figure
from support.chaos.load import loading

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

AT_ONCE = 16 * 4
"""Most spooled files of settled uploads that a killed reactor with 16 concurrent puts may leave."""


@pytest.mark.parametrize("point", POINTS)
def test_uploads_of_a_killed_reactor_are_stored_once(point: str, harness: Harness, reactors: Fleet) -> None:
    load = harness.load(pace_s=0.02)
    crashing = reactors.start_with_crash_point(point)
    crashing.wait_until_ready()
    with loading(load, workers=0):
        if point == "reconnecting":
            assert harness.terminate_sessions("reactor-listen") == 1
        assert crashing.process.wait(60) == -9, crashing.log
    reactors.start().wait_until_ready()
    findings = harness.check(load)
    assert findings.stored
    assert findings.dead == 0
    assert len(findings.left_in_spool) <= (AT_ONCE if point in {"settled", "reconnecting"} else 0)


def test_thirty_kills_at_random_lose_nothing(harness: Harness, reactors: Fleet) -> None:
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


@pytest.mark.parametrize("point", ["claimed", "mid-put", "put", "settled"])
def test_repeated_kills_at_one_point_lose_nothing(point: str, harness: Harness, reactors: Fleet) -> None:
    chance = random.Random(point)
    load = harness.load()
    with loading(load, uploaders=2, workers=1):
        for _ in range(8):
            crashing = reactors.start_with_crash_point(point, chance.randrange(1, 12))
            assert crashing.process.wait(60) == -9, crashing.log
    reactors.start()
    findings = harness.check(load)
    assert findings.dead == 0
    # at every point, some other uploads may have been settled just before the kill, and their files not yet removed
    assert len(findings.left_in_spool) <= 8 * AT_ONCE


def test_uploads_of_a_killed_reactor_are_stored_within_its_lease_plus_five_seconds(
    harness: Harness, reactors: Fleet
) -> None:
    """The triggers are dropped, so the survivor gets no notification. It must detect that the other reactor is gone."""
    load = harness.load(pace_s=0.0)
    survivor = reactors.start(LEASE="30s")
    survivor.wait_until_ready()
    harness.drop_triggers()
    with loading(load, workers=0):
        load.wait_for(40)
    crashing = reactors.start_with_crash_point("mid-put", 5, LEASE="30s")
    assert crashing.process.wait(60) == -9
    took_s = wait_until_drained(harness.url, within_s=60.0)
    figure("a reactor killed, no notification about its uploads: all stored after, s", took_s)
    assert took_s <= 30.0 + 5.0
    harness.check(load)
