"""Random faults of all kinds lose and repeat nothing. --soak sets the duration: `pytest -m soak --soak 600`."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from support.chaos.db_audit import connection_to
from support.chaos.harness import Fleet, Harness, figure, fleet, open_harness
from support.chaos.load import loading
from support.process import Running
from support.servers.postgres import own_server
from support.servers.proxy import proxied_in_thread

REACTORS = 3
PUTS_AT_ONCE = 16


class Faults:
    """Injects random faults one at a time, and counts them."""

    def __init__(self, harness: Harness, reactors: Fleet, chance: random.Random, proxy_url: str) -> None:
        self.counts: Counter[str] = Counter()
        self._harness = harness
        self._reactors = reactors
        self._chance = chance
        self._urls = [harness.url, harness.url, proxy_url]
        self._runs: list[Running] = [self._start(number) for number in range(REACTORS)]

    def _start(self, number: int) -> Running:
        return self._reactors.start(DATABASE_URL=self._urls[number])

    def revive(self) -> None:
        """Restart reactors that have ended, as a service manager does."""
        for number, run in enumerate(self._runs):
            if run.process.poll() is not None:
                self._runs[number] = self._start(number)

    def strike(self, network: Sequence[Callable[[], None]]) -> None:
        """Inject one fault of a server, a network or a process."""
        number = self._chance.randrange(REACTORS)
        run = self._runs[number]
        kinds = ["kill", "stop", "roll", "restart", "storm", "session", "network", "network"]
        kind = self._chance.choice(kinds)
        self.counts[kind] += 1
        match kind:
            case "kill":
                run.kill()
                self._runs[number] = self._start(number)
            case "stop":
                with run.stopped():
                    time.sleep(self._chance.uniform(0.5, 4.0))
            case "roll":
                run.terminate()
                self._runs[number] = self._start(number)
            case "restart":
                self._harness.server.stop(signal.SIGQUIT)
                self._harness.server.start()
            case "storm":
                for _ in range(10):
                    self._harness.terminate_sessions("%")
                    time.sleep(0.05)
            case "session":
                self._harness.terminate_one_session("%")
            case _:
                self._chance.choice(network)()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_mixed_faults_lose_nothing_and_repeat_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    seconds = request.config.getoption("--soak")
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201  # the same seed chooses the same faults, but at slightly different times
    chance = random.Random(seed)
    with (
        own_server() as server,
        open_harness(tmp_path, server) as harness,
        fleet(harness) as reactors,
        proxied_in_thread(harness.url) as (proxy, call),
    ):
        network = [partial(call, fault) for fault in (proxy.reset, proxy.half_close, proxy.blackhole, proxy.freeze)]
        load = harness.load(users=12, seed=seed, pace_s=0.02)
        faults = Faults(harness, reactors, chance, proxy.url)
        with loading(load, uploaders=3, workers=3):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(chance.uniform(0.2, 2.0))
                faults.strike(network)
                reactors.assert_sound()
                faults.revive()
            faults.revive()
        findings = harness.check(load, within_s=90.0)
        reactors.assert_sound()
        with connection_to(harness.url) as conn:
            [version] = conn.execute("show server_version").fetchall()
    counts = load.history.counts()
    figure(f"soak of {seconds:.0f} s on PostgreSQL {version['server_version']}, seed {seed}", str(dict(faults.counts)))
    figure(
        "  uploads stored, files left in the spool, runs",
        findings.stored,
        len(findings.left_in_spool),
        len(load.history.runs),
    )
    figure("  app's calls: ok, refused, failed, unknown", *(counts[o] for o in ("ok", "refused", "failed", "unknown")))
    assert findings.dead == 0
    # a reactor may be killed after a settlement has committed and before its files are removed
    assert len(findings.left_in_spool) <= PUTS_AT_ONCE * faults.counts["kill"]
