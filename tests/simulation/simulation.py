"""One simulation and its phases: mixed faults for 30 to 180 s, drain, probes of single faults, shutdown.

During the drain no fault occurs, and all uploads and runs must end within a computed limit. The checks run in every
phase.
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
from simulation.workload import Workload

_SLOP_S = 30.0
"""Extra time for round trips, slow puts in flight and slow calls."""

_END_WITHIN_S = 40.0
_LONGEST_STEP_S = 30.0


class Simulation:
    """All parts of one run, and a method for each phase."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = loop
        self.faults = mixed(self.rng)
        self.checks = Checks(loop)
        self.server = Server(loop, self.rng, self.faults, self.checks)
        self.storage = Storage(loop, self.rng, self.faults, self.checks)
        self.checks.objects = self.storage.objects
        self.workload = Workload(self.server, self.storage, self.checks, self.rng, self.faults)
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

    # phases

    async def run_with_faults(self, seconds: float) -> None:
        """Run the workload while the faults of this seed's mixture occur."""
        self.checks.log("simulation", f"{self.faults}")
        self.server.triggers_disabled = self.rng.random() < 0.1
        async with create_task_group() as tasks:
            tasks.start_soon(self.workload.run, seconds)
            tasks.start_soon(self._inject_faults, seconds)

    async def _inject_faults(self, seconds: float) -> None:
        until, faults = self.loop.time() + seconds, self.faults
        async with create_task_group() as tasks:
            while self.loop.time() < until:
                await sleep(self.rng.uniform(0.5, 1.5))
                for process in self.processes:
                    self._inject_process_fault(process, tasks)
                if self.rng.random() < faults.server_restarted:
                    self.server.restart()
                if self.rng.random() < faults.store_down:
                    tasks.start_soon(self._take_store_down)
                if self.rng.random() < faults.credentials_expire:
                    tasks.start_soon(self._let_credentials_expire)
                if self.rng.random() < faults.clock_stepped:
                    self.server.clock_ahead_s += self.rng.choice([-1, 1]) * self.rng.uniform(0, _LONGEST_STEP_S)
                    self.checks.log("database", f"clock is {self.server.clock_ahead_s:.1f} s ahead")

    def _inject_process_fault(self, process: Process, tasks: TaskGroup) -> None:
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

    async def _take_store_down(self) -> None:
        if not self.storage.is_down:
            self.checks.log("store", "is down")
            self.storage.is_down = True
            await sleep(self.rng.choice([2.0, 30.0, 90.0]))
            self.storage.is_down = False
            self.checks.log("store", "is up")

    async def _let_credentials_expire(self) -> None:
        if not self.storage.refuses_everybody:
            self.checks.log("store", "refuses everybody")
            self.storage.refuses_everybody = True
            await sleep(self.rng.choice([2.0, 30.0, 90.0]))
            self.storage.refuses_everybody = False
            self.checks.log("store", "accepts all puts again")

    async def drain(self) -> None:
        """Stop all faults, and check that everything drains within the limit."""
        self.faults.clear()
        self.server.start()
        self.server.break_listeners()  # replace silent connections: the limit includes no time to detect them
        self.server.triggers_disabled = False
        for process in self.processes:
            process.thaw()
        self.checks.log("simulation", "faults have stopped")
        bound_s = self.drain_limit_s()
        began = self.loop.time()
        while self.loop.time() - began < (bound_s if self.checks.unfinished() else _SLOP_S):
            for process in self.processes:  # also reactors that were shutting down when the faults stopped
                if not process.is_running:
                    process.start()
            await sleep(1.0)
        for item in self.checks.unfinished():
            self.checks.add_violation(f"unfinished {bound_s:.0f} s after the last fault: {item}")
        await sleep(_SLOP_S)
        self.checks.faults_stopped = True

    def drain_limit_s(self) -> float:
        """Return the maximum time in seconds from the last fault until everything is drained."""
        settings = self.settings
        longest_wait_s = max(1.1 * settings.retry_max_s, 60.0) + _LONGEST_STEP_S
        held_s = settings.lease_s + settings.attempt_timeout_s + settings.shutdown_grace_s
        # a sweep may have to find the row first, and the longest timeout of a run is 600 s
        return longest_wait_s + held_s + settings.reconcile_interval_s + 600.0 + _SLOP_S

    async def stop(self) -> None:
        """Ask all reactors to stop, and check that they end in time and leave no lease behind."""
        for process in self.processes:
            process.ask_to_stop()
        began = self.loop.time()
        while any(process.is_running for process in self.processes):
            await sleep(0.5)
            if self.loop.time() - began > self.settings.shutdown_grace_s + _END_WITHIN_S:
                self.checks.add_violation("I20: a reactor didn't end in time")
                return
        held = [row.id for row in self.server.db.uploads.values() if row.status == "uploading"]
        if held:
            self.checks.add_violation(f"I20: {held} are still leased after all reactors have ended")

    async def finish(self) -> None:
        """End all remaining tasks, so that the next simulation starts clean."""
        self.server.is_up = True
        self.faults.clear()
        self.server.start()
        for process in self.processes:
            for node in process.nodes:
                node.finish()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def seeded_simulation(seed: int) -> Iterator[Simulation]:
    """Yield a simulation in which the seed determines all random values."""
    state = random.getstate()
    random.seed(seed)
    chance = random.Random(f"bytes {seed}")
    logger.disable("reactor")
    gc.disable()  # faster: most objects of a run live until its end, so a collection finds little
    try:
        with patch.object(os, "urandom", chance.randbytes), virtual_loop(seed) as loop:
            yield Simulation(loop, seed)
    finally:
        gc.enable()
        logger.enable("reactor")
        random.setstate(state)
