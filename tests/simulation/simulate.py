"""`simulate(seed)`: one run from its first second to its last, and what was wrong in it."""

import hashlib
from unittest import mock

from attrs import frozen

from reactor.engine import schedule
from simulation.probes import probe
from simulation.world import World, world

ENOUGH = 3
"""Rows ready with which a reactor leaves others to the others: a world has dozens, not thousands."""


@frozen
class Run:
    """What came of a seed."""

    seed: int
    violations: list[str]
    trace: list[str]
    lasted_s: float
    """By the simulated clock."""

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def simulate(seed: int) -> Run:
    """Let one world suffer, drain, recover from single faults, and end."""
    with world(seed) as made, mock.patch.object(schedule, "_ENOUGH", ENOUGH):
        began = made.loop.time()
        try:
            made.loop.run_until_complete(_live(made))
        except AssertionError as error:
            made.checks.violated(str(error))
        lasted_s = made.loop.time() - began
        violations = list(made.checks.violations) + [f"nobody looked at: {crash}" for crash in made.loop.crashed]
        try:
            made.loop.run_until_complete(made.bury())
        except AssertionError as error:
            violations.append(f"afterwards: {error}")
    return Run(seed, violations, made.checks.trace, lasted_s)


async def _live(made: World) -> None:
    made.start(made.rng.choice([1, 1, 2, 2, 3]))
    await made.suffer(made.rng.choice([30.0, 60.0, 180.0]))
    await made.calm()
    if not made.checks.violations:
        await probe(made)
    if not made.checks.violations:
        await made.stop()
    made.checks.check_books()
