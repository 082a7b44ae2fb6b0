"""One run: a world suffers for some minutes, then nothing goes wrong any more, and everything must drain.

After that single faults follow, each with the time that the reactors may take to get over it, and at last all are
told to stop. Whatever happened, the checks must hold.
"""

import asyncio
import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from anyio import create_task_group, sleep
from anyio.abc import TaskGroup
from attrs import evolve
from loguru import logger

from reactor.core.settings import Settings
from simulation.checks import Checks
from simulation.faults import mixed
from simulation.loop import VirtualLoop, virtual_loop
from simulation.reactor import RESTARTS_WITHIN_S, SETTINGS, Process
from simulation.server import Server
from simulation.store import Storage
from simulation.workload import People

_SLOP_S = 30.0
"""Round trips, slow puts that are still on their way, a call that takes its time."""

_END_WITHIN_S = 40.0
_LONGEST_STEP_S = 30.0


class World:
    """Everything there is."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = loop
        self.faults = mixed(self.rng)
        self.checks = Checks(loop)
        self.server = Server(loop, self.rng, self.faults, self.checks)
        self.storage = Storage(loop, self.rng, self.faults, self.checks)
        self.checks.objects = self.storage.objects
        self.people = People(self.server, self.storage, self.checks, self.rng, self.faults)
        self.settings = self._drawn_settings()
        self.processes: list[Process] = []

    def _drawn_settings(self) -> Settings:
        rng = self.rng
        return evolve(
            SETTINGS,
            upload_concurrency=rng.choice([1, 4, 16]),
            uploads_per_user=rng.choice([1, 4, 8]),
            retry_base_s=rng.choice([1.0, 10.0, 30.0]),
            retry_max_s=rng.choice([30.0, 120.0]),
            attempt_timeout_s=rng.choice([20.0, 60.0]),
            lease_s=rng.choice([5.0, 15.0, 30.0]),
            reconcile_interval_s=rng.choice([60.0, 300.0]),
            wheel_horizon_s=rng.choice([60.0, 900.0]),
            shutdown_grace_s=rng.choice([0.0, 5.0, 20.0]),
        )

    def start(self, count: int) -> None:
        for number in range(count):
            self.processes.append(
                Process(f"reactor-{number + 1}", self.server, self.storage, self.checks, self.settings)
            )

    # suffering

    async def suffer(self, seconds: float) -> None:
        """Let people live while everything that this seed's mixture holds goes wrong."""
        self.checks.tell("world", f"{self.faults}")
        self.server.is_mute = self.rng.random() < 0.1
        async with create_task_group() as tasks:
            tasks.start_soon(self.people.live, seconds)
            tasks.start_soon(self._torment, seconds)

    async def _torment(self, seconds: float) -> None:
        until, faults = self.loop.time() + seconds, self.faults
        async with create_task_group() as tasks:
            while self.loop.time() < until:
                await sleep(self.rng.uniform(0.5, 1.5))
                for process in self.processes:
                    self._harass(process, tasks)
                if self.rng.random() < faults.server_restarted:
                    self.server.restart()
                if self.rng.random() < faults.store_down:
                    tasks.start_soon(self._close_store)
                if self.rng.random() < faults.clock_stepped:
                    self.server.clock_ahead_s += self.rng.choice([-1, 1]) * self.rng.uniform(0, _LONGEST_STEP_S)
                    self.checks.tell("database", f"'s clock is {self.server.clock_ahead_s:.1f} s ahead")

    def _harass(self, process: Process, tasks: TaskGroup) -> None:
        if not process.is_running:
            if self.rng.random() < 1 / RESTARTS_WITHIN_S:
                process.start()
        elif not process.node.is_frozen:
            if self.rng.random() < self.faults.killed:
                process.kill()
            elif self.rng.random() < self.faults.frozen:
                tasks.start_soon(self._freeze, process)
            elif self.rng.random() < self.faults.restarted:
                process.ask_to_stop()

    async def _freeze(self, process: Process) -> None:
        process.freeze()
        await sleep(self.rng.choice([0.5, 2.0, 1.5 * self.settings.lease_s, 60.0]))
        process.thaw()

    async def _close_store(self) -> None:
        if not self.storage.is_down:
            self.checks.tell("store", "is down")
            self.storage.is_down = True
            await sleep(self.rng.choice([2.0, 30.0, 90.0]))
            self.storage.is_down = False
            self.checks.tell("store", "is up")

    # and then

    async def calm(self) -> None:
        """Let nothing go wrong any more, and demand that everything drains."""
        self.faults.calm()
        self.server.start()
        self.server.break_listeners()  # what is deaf would be found out; how soon is asked by itself
        self.server.is_mute = False
        for process in self.processes:
            process.thaw()
        self.checks.tell("world", "is calm")
        bound_s = self.drains_within_s()
        began = self.loop.time()
        while self.loop.time() - began < (bound_s if self.checks.drained() else _SLOP_S):
            for process in self.processes:  # who was being stopped when it became calm as well
                if not process.is_running:
                    process.start()
            await sleep(1.0)
        for owed in self.checks.drained():
            self.checks.violated(f"after {bound_s:.0f} s of calm there is still: {owed}")
        await sleep(_SLOP_S)
        self.checks.is_calm = True

    def drains_within_s(self) -> float:
        """Return how long what is owed may take from the end of the last fault on."""
        settings = self.settings
        longest_wait_s = max(1.1 * settings.retry_max_s, 60.0) + _LONGEST_STEP_S
        held_s = settings.lease_s + settings.attempt_timeout_s + settings.shutdown_grace_s
        # a row that only a sweep can find, and a worker that falls silent
        return longest_wait_s + held_s + settings.reconcile_interval_s + 600.0 + _SLOP_S

    async def stop(self) -> None:
        """Tell all reactors to stop, and demand that they leave nothing behind."""
        for process in self.processes:
            process.ask_to_stop()
        began = self.loop.time()
        while any(process.is_running for process in self.processes):
            await sleep(0.5)
            if self.loop.time() - began > self.settings.shutdown_grace_s + _END_WITHIN_S:
                self.checks.violated("I20: a reactor doesn't end")
                return
        held = [row.id for row in self.server.db.uploads.values() if row.status == "uploading"]
        if held:
            self.checks.violated(f"I20: {held} are still leased, though all reactors have ended")

    async def bury(self) -> None:
        """Let what is left of every process end, so that the next world begins with none of it."""
        self.server.is_up = True
        self.faults.calm()
        self.server.start()
        for process in self.processes:
            for node in process.nodes:
                node.bury()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def world(seed: int) -> Iterator[World]:
    """Make a world in which everything that is left to chance follows from the seed."""
    state = random.getstate()
    random.seed(seed)
    chance = random.Random(f"bytes {seed}")
    logger.disable("reactor")
    gc.disable()  # most of what a run makes lives as long as it does
    try:
        with patch.object(os, "urandom", chance.randbytes), virtual_loop(seed) as loop:
            yield World(loop, seed)
    finally:
        gc.enable()
        logger.enable("reactor")
        random.setstate(state)
