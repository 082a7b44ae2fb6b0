"""No upload is lost or repeated in rolling restarts of several reactors, or behind a transaction pooler."""

from pathlib import Path

import pytest
from support.chaos.final_check import wait_until_drained
from support.chaos.harness import Fleet, Harness, figure
from support.chaos.load import loading
from support.servers.pgbouncer import running_pgbouncer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def _roll(load_seconds: int, harness: Harness, reactors: Fleet, count: int) -> None:
    load = harness.load()
    runs = [reactors.start() for _ in range(count)]
    for run in runs:
        run.wait_until_ready()
    with loading(load):
        for _ in range(load_seconds):
            for number, run in enumerate(runs):
                load.wait_for(10)
                runs[number] = reactors.start()
                run.terminate()
                assert run.ended() == 0, run.log
                runs[number].wait_until_ready()
    findings = harness.check(load)
    reactors.assert_sound()
    counts = load.history.counts()
    figure(
        f"rolling restarts of {count} reactors, {load_seconds} rounds: uploads stored, app's failed and unknown calls",
        findings.stored,
        counts["failed"] + counts["unknown"],
    )
    assert findings.dead == 0
    assert findings.left_in_spool == []
    assert counts["failed"] == counts["unknown"] == 0
    assert findings.takeovers_s == []  # no reactor left a lease behind


def test_a_rolling_restart_under_load_loses_and_repeats_nothing(harness: Harness, reactors: Fleet) -> None:
    _roll(1, harness, reactors, 2)


def test_repeated_rolling_restarts_lose_and_repeat_nothing(harness: Harness, reactors: Fleet) -> None:
    _roll(5, harness, reactors, 3)


def test_behind_a_transaction_pooler_a_reactor_warns_polls_and_loses_nothing(
    harness: Harness, reactors: Fleet, reachable_folder: Path
) -> None:
    load = harness.load()
    with running_pgbouncer(harness.url, reachable_folder, mode="transaction") as pooled:
        run = reactors.start(DATABASE_URL=pooled)
        with loading(load):
            line = run.wait_for_line("polling")
            assert "WARNING" in line or "ERROR" in line
            load.wait_for(50)
        wait_until_drained(harness.url, within_s=2.0 + 10.0)
        findings = harness.check(load)
        run.terminate()
        assert run.ended() == 0
    assert findings.dead == 0
    assert findings.left_in_spool == []
