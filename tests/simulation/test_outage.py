"""During an outage of the store, waiting uploads don't use up their retries."""

import pytest
from anyio import sleep

from simulation.reactor import SETTINGS as DEFAULTS
from simulation.simulation import Simulation, seeded_simulation

UPLOADS = 1_000
OUTAGE_S = 600.0
DRAINED_WITHIN_S = 60.0


@pytest.mark.parametrize("reactors", [1, pytest.param(3, marks=pytest.mark.simulation)])
def test_a_ten_minute_outage_costs_each_upload_at_most_two_attempts(reactors: int) -> None:
    """The settings are the defaults. All uploads are stored within a minute after the outage."""

    async def live(sim: Simulation) -> None:
        sim.start(reactors)
        await sleep(5.0)
        sim.storage.is_down = True
        for _ in range(UPLOADS):
            sim.workload.queue_upload()
        await sleep(OUTAGE_S)
        spent.extend(row.retry_count for row in sim.server.db.uploads.values())
        sim.storage.is_down = False
        ended_at = sim.loop.time()
        while sim.checks.unfinished() and sim.loop.time() - ended_at < DRAINED_WITHIN_S:
            await sleep(0.5)
        drained_s.append(sim.loop.time() - ended_at)
        await sim.stop()
        sim.checks.check_usage_and_losses()

    spent: list[int] = []
    drained_s: list[float] = []
    with seeded_simulation(reactors) as sim:
        sim.faults.clear()
        sim.settings = DEFAULTS
        sim.loop.run_until_complete(live(sim))
        unfinished, violations, stored = sim.checks.unfinished(), sim.checks.violations, len(sim.checks.stored)
        sim.loop.run_until_complete(sim.finish())
    assert violations == []
    assert len(spent) == UPLOADS
    assert max(spent) + 1 <= 2  # the failed attempts, and the one that stores the upload
    assert unfinished == []
    assert stored == UPLOADS
    assert drained_s[0] <= DRAINED_WITHIN_S
