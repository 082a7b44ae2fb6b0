"""An outage of the store is not a failure of the uploads that wait for it."""

import pytest
from anyio import sleep

from simulation.reactor import SETTINGS as DEFAULTS
from simulation.world import World, world

UPLOADS = 1_000
OUTAGE_S = 600.0
DRAINED_WITHIN_S = 60.0


@pytest.mark.parametrize("reactors", [1, pytest.param(3, marks=pytest.mark.simulation)])
def test_ten_minutes_without_a_store_cost_no_upload_more_than_two_attempts(reactors: int) -> None:
    """All are stored within a minute after it ends; on the settings' defaults."""

    async def live(made: World) -> None:
        made.start(reactors)
        await sleep(5.0)
        made.storage.is_down = True
        for _ in range(UPLOADS):
            made.people.owe()
        await sleep(OUTAGE_S)
        spent.extend(row.retry_count for row in made.server.db.uploads.values())
        made.storage.is_down = False
        ended_at = made.loop.time()
        while made.checks.drained() and made.loop.time() - ended_at < DRAINED_WITHIN_S:
            await sleep(0.5)
        drained_s.append(made.loop.time() - ended_at)
        await made.stop()
        made.checks.check_books()

    spent: list[int] = []
    drained_s: list[float] = []
    with world(reactors) as made:
        made.faults.calm()
        made.settings = DEFAULTS
        made.loop.run_until_complete(live(made))
        owed, violations, stored = made.checks.drained(), made.checks.violations, len(made.checks.stored)
        made.loop.run_until_complete(made.bury())
    assert violations == []
    assert len(spent) == UPLOADS
    assert max(spent) + 1 <= 2  # and the one that stored it
    assert owed == []
    assert stored == UPLOADS
    assert drained_s[0] <= DRAINED_WITHIN_S
