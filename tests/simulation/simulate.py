"""`simulate(seed)` runs one simulation from start to end and returns its trace and violations."""

import hashlib
from unittest import mock

from attrs import frozen

from reactor.engine import schedule
from simulation.probes import probe
from simulation.simulation import Simulation, seeded_simulation

ENOUGH = 3
"""A reactor with this many ready signals yields rows. The real limit, 500, is too high for the dozens of rows here."""


@frozen
class Run:
    """The result of one seed."""

    seed: int
    violations: list[str]
    trace: list[str]
    lasted_s: float
    """Duration in simulated seconds."""

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def simulate(seed: int) -> Run:
    """Run one seed in phases: mixed faults, drain, probes of single faults, shutdown."""
    with seeded_simulation(seed) as sim, mock.patch.object(schedule, "_ENOUGH_READY", ENOUGH):
        began = sim.loop.time()
        try:
            sim.loop.run_until_complete(_live(sim))
        except AssertionError as error:
            sim.checks.add_violation(str(error))
        lasted_s = sim.loop.time() - began
        violations = sim.checks.violations + [f"unhandled error: {error}" for error in sim.loop.unhandled_errors]
        try:
            sim.loop.run_until_complete(sim.finish())
        except AssertionError as error:
            violations.append(f"after the end: {error}")
    return Run(seed, violations, sim.checks.trace, lasted_s)


async def _live(sim: Simulation) -> None:
    sim.start(sim.rng.choice([1, 1, 2, 2, 3]))
    await sim.run_with_faults(sim.rng.choice([30.0, 60.0, 180.0]))
    await sim.drain()
    if not sim.checks.violations:
        await probe(sim)
    if not sim.checks.violations:
        await sim.stop()
    sim.checks.check_usage_and_losses()
