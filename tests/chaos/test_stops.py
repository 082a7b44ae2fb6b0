"""If SIGSTOP stops a reactor past its lease, another reactor takes over. Meanwhile no write of the app fails."""

import os
import signal
import threading
import time

import pytest
from support import aws
from support.chaos.db_audit import connection_to
from support.chaos.final_check import Objects, wait_until_drained
from support.chaos.harness import LEASE_S, Fleet, Harness, figure
from support.chaos.load import BUCKET, Load, loading
from support.process import Running
from support.servers.fault_server import FaultServer, Request, stores

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


def objects_of(server: FaultServer) -> Objects:
    return lambda key: server.objects.get(f"/{BUCKET}/{key}")


def test_a_reactor_stopped_past_its_lease_changes_nothing_when_it_resumes(harness: Harness, reactors: Fleet) -> None:
    """The first reactor is stopped during its PUT, and the second stores the upload. Then the first reactor resumes."""
    arrived = threading.Event()
    load = harness.load()

    def stops_the_first(request: Request) -> None:
        if not arrived.is_set() and request.command == "PUT":
            arrived.set()
            os.kill(first.process.pid, signal.SIGSTOP)
        stores(request)

    with FaultServer() as server:
        variables = aws.environment(server.endpoint, access_key="key", secret_key="secret")
        first = reactors.start(variables, STORE_URL="s3://")
        first.wait_until_ready()
        server.fault = stops_the_first
        with loading(load, uploaders=1, workers=0):
            load.wait_for(3)
        assert arrived.wait(60.0)
        second = reactors.start(variables, STORE_URL="s3://")
        second.wait_until_ready()
        wait_until_drained(harness.url, within_s=60.0)
        first.process.send_signal(signal.SIGCONT)
        first.wait_for_line("lease")
        first.terminate()
        assert first.ended() == 0
        findings = harness.check(load, objects=objects_of(server))
    assert findings.stored == len(load.history.acknowledged())
    assert max(findings.takeovers_s, default=0.0) <= LEASE_S + 5.0


def all_stopped(load: Load, harness: Harness, runs: list[Running], seconds: float) -> tuple[float, float]:
    """Stop all reactors for `seconds`.

    Returns the peak usage of the notification queue (0 to 1) and the duration of the app's longest call in seconds.
    """
    for run in runs:
        run.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    fullest = 0.0
    with connection_to(harness.url) as conn:
        while time.monotonic() - began < seconds:
            [row] = conn.execute("select pg_notification_queue_usage() as full").fetchall()
            fullest = max(fullest, row["full"])
            time.sleep(0.2)
    for run in runs:
        run.process.send_signal(signal.SIGCONT)
    return fullest, max(op.took_s for op in load.history.operations if op.began >= began)


@pytest.mark.parametrize("seconds", [2.0, 60.0], ids=["short", "a minute"])
def test_no_write_of_the_app_fails_while_all_reactors_are_stopped(
    seconds: float, harness: Harness, reactors: Fleet
) -> None:
    load = harness.load()
    runs = [reactors.start(), reactors.start()]
    for run in runs:
        run.wait_until_ready()
    with loading(load):
        load.wait_for(10)
        fullest, longest_s = all_stopped(load, harness, runs, seconds)
    counts = load.history.counts()
    assert counts["failed"] == counts["unknown"] == 0
    assert fullest < 0.01
    findings = harness.check(load, within_s=50.0)
    figure(
        f"all reactors stopped for {seconds:.0f} s: app's calls, failed, queue usage, longest call in s",
        *(counts["ok"], counts["failed"], fullest, longest_s),
    )
    assert findings.dead == 0
