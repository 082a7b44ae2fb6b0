"""No acknowledged effect is lost or repeated after database restarts, terminated sessions or dropped triggers."""

import random
import signal
import time
from collections.abc import Callable

import pytest
from support.chaos.final_check import wait_until_drained
from support.chaos.harness import Fleet, Harness, figure
from support.chaos.load import loading

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

STORM_EVERY_S = 0.05


def test_work_continues_after_an_immediate_restart(harness: Harness, reactors: Fleet) -> None:
    load = harness.load()
    reactors.start().wait_until_ready()
    with loading(load, workers=1):
        load.wait_for(20)
        harness.server.stop(signal.SIGQUIT)
        harness.server.start()
        load.wait_for(20)
    findings = harness.check(load)
    assert findings.dead == 0
    assert findings.left_in_spool == []


def test_twenty_immediate_restarts_lose_nothing(harness: Harness, reactors: Fleet) -> None:
    load = harness.load()
    for run in [reactors.start(), reactors.start()]:
        run.wait_until_ready()
    working_again = []
    with loading(load, uploaders=2, workers=2):
        for _ in range(20):
            time.sleep(2.0)
            harness.server.stop(signal.SIGQUIT)
            harness.server.start()
            began = time.monotonic()
            load.wait_for(1)
            harness.wait_for_next_stored()
            working_again.append(time.monotonic() - began)
    findings = harness.check(load)
    counts = load.history.counts()
    figure(
        "immediate restart: first upload stored after the start, s (median, worst)", *median_and_worst(working_again)
    )
    figure("immediate restarts: app's calls, unknown and ok", counts["unknown"], counts["ok"])
    figure(
        "immediate restarts: spooled files left behind, uploads stored", len(findings.left_in_spool), findings.stored
    )
    assert findings.dead == 0
    assert findings.left_in_spool == []


@pytest.mark.parametrize("all_at_once", [False, True], ids=["one by one", "all at once"])
def test_a_storm_of_terminated_sessions_only_slows_reactors_down(
    all_at_once: bool, harness: Harness, reactors: Fleet
) -> None:
    """Every 50 ms, one session or all sessions of the reactor are terminated."""
    load = harness.load(pace_s=0.0)
    reactor = reactors.start()
    reactor.wait_until_ready()
    with loading(load, uploaders=2, workers=1):
        load.wait_for(20)
        calm, _ = _stored_within(harness, 15.0)
        before = reactor.resources()
        storm = harness.terminate_sessions if all_at_once else harness.terminate_one_session
        stormy, killed = _stored_within(harness, 15.0, storm)
    drained_s = wait_until_drained(harness.url, within_s=30.0)
    after = reactor.resources()
    which = "all at once" if all_at_once else "one by one"
    figure(
        f"storm of terminated sessions, {which}: throughput relative to before, sessions terminated",
        stormy / calm,
        killed,
    )
    figure("after the storm: drained within, s", drained_s)
    figure("descriptors and MB before the storm, descriptors and MB after", *before, *after)
    findings = harness.check(load)
    figure("  spooled files left behind, uploads stored", len(findings.left_in_spool), findings.stored)
    assert killed > 30
    assert findings.dead == 0
    assert all_at_once or stormy >= calm / 4
    assert after[0] <= before[0] + 10


def _stored_within(harness: Harness, seconds: float, storm: Callable[[], int] = lambda: 0) -> tuple[int, int]:
    """Call `storm` repeatedly for `seconds`. Return the numbers of stored uploads and of terminated sessions."""
    before, killed = harness.stored(), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        killed += storm()
        time.sleep(STORM_EVERY_S)
    return harness.stored() - before, killed


def test_many_reactors_and_apps_keep_all_invariants_while_sessions_die(harness: Harness, reactors: Fleet) -> None:
    """The leases are so short that they expire during attempts. Sessions of reactors and of the app are terminated."""
    chance = random.Random(3)
    load = harness.load(pace_s=0.0)
    for _ in range(4):
        reactors.start(LEASE="1s", UPLOAD_CONCURRENCY="8")
    for run in reactors.all:
        run.wait_until_ready()
    with loading(load, uploaders=4, workers=3):
        until = time.monotonic() + 45.0
        while time.monotonic() < until:
            time.sleep(0.06)
            harness.terminate_one_session("%")
            if chance.random() < 0.02:
                stopped = chance.choice(reactors.all)
                with stopped.stopped():
                    time.sleep(1.5)
    findings = harness.check(load)
    counts = load.history.counts()
    figure(
        "short leases, terminated sessions: stored, refused, unknown",
        findings.stored,
        counts["refused"],
        counts["unknown"],
    )
    assert findings.stored > 200
    assert findings.dead == 0
    assert counts["refused"]


def test_reconciliation_does_all_work_when_the_triggers_are_dropped(harness: Harness, reactors: Fleet) -> None:
    harness.drop_triggers()
    load = harness.load()
    reactors.start(RECONCILE_INTERVAL="2s").wait_until_ready()
    with loading(load, uploaders=2, workers=2):
        for _ in range(10):
            time.sleep(1.0)
            harness.terminate_sessions()
    assert wait_until_drained(harness.url, within_s=20.0) <= 2.0 + 5.0
    findings = harness.check(load)
    figure(
        "without triggers, reconciling every 2 s: maximum lateness of a stale run's failure, s",
        max(findings.expiries_s),
    )
    assert findings.dead == 0


def median_and_worst(values: list[float]) -> tuple[float, float]:
    return sorted(values)[len(values) // 2], max(values)
