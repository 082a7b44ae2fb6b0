"""One simulated reactor: the engine and the reactions of production with simulated ports."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from anyio import Event, sleep
from attrs import evolve

from reactor.core.errors import DatabaseUnavailable
from reactor.core.settings import Settings
from reactor.runtime.clock import Clock
from reactor.wiring import Ports, wire_engine, wire_listen, wire_presence
from simulation.checks import Checks
from simulation.loop import Node
from simulation.server import Client, Server, SimulatedListener
from simulation.store import SimulatedThreads, Storage

SETTINGS = Settings(database_url="", store_url="s3://", spools={"default": Path("/spool")})
RESTARTS_WITHIN_S = 5.0


class Process:
    """A reactor's process, and the service manager that restarts it."""

    def __init__(self, name: str, server: Server, storage: Storage, checks: Checks, settings: Settings) -> None:
        self.name = name
        self._server = server
        self._storage = storage
        self._checks = checks
        self._settings = evolve(settings)
        self._starts = 0
        self._frozen_at = 0.0
        self.nodes: list[Node] = []
        self.start()

    @property
    def is_running(self) -> bool:
        return not (self.node.is_dead or self.task.done())

    def start(self) -> None:
        self._starts += 1
        self.node = Node(f"{self.name}.{self._starts}", self._server.loop)
        self.nodes.append(self.node)
        self.stop = Event()
        self._checks.log(self.node.name, "starts")
        self.task = self.node.start(partial(self._main, self.node, self.stop))

    async def _main(self, node: Node, stop: Event) -> None:
        try:
            while not stop.is_set():
                # `reactor run` exits if it can't connect at the start, and its service manager restarts it
                with suppress(DatabaseUnavailable):
                    await self._run(node, stop)
                    break
                await sleep(RESTARTS_WITHIN_S)
        except Exception as error:  # noqa: BLE001  # no error may end a reactor
            self._checks.add_violation(f"{node.name} ended with an error: {_innermost(error)!r}")
        self._checks.log(node.name, "has ended")

    async def _run(self, node: Node, stop: Event) -> None:
        client, settings = Client(self._server, node), self._settings
        threads = SimulatedThreads(
            self._storage, node, concurrency=settings.upload_concurrency, per_tenant=settings.uploads_per_user
        )
        ports = Ports(
            clock=Clock(now=self._server.loop.time),
            database=client,
            claims=client,
            source=SimulatedListener(self._server, node),
            executor=threads.executor,
            spool=threads,
            run_in_thread=threads.run,
            store_name="simulated",
        )
        emit = partial(self._checks.on_event, node)
        engine = wire_engine(ports, settings, horizon_s=settings.wheel_horizon_s, emit=emit)
        presence = wire_presence(ports, version="simulated", emit=emit)
        await presence.report("starting", with_canary=False)
        listen = wire_listen(ports, engine, presence, emit=emit)
        await engine.run_until(stop, [listen.run, engine.reconcile.run], grace_s=settings.shutdown_grace_s)
        with suppress(DatabaseUnavailable):
            await presence.deregister()

    # faults

    def kill(self) -> None:
        self._checks.log(self.node.name, "is killed")
        self.node.kill()
        for connection in list(self._server.listeners):
            if connection.node is self.node:
                connection.disconnect("connection reset by peer")

    def freeze(self) -> None:
        self._checks.log(self.node.name, "is frozen")
        self._frozen_at = self._server.loop.time()
        self.node.freeze()

    def thaw(self) -> None:
        if self.node.is_frozen:
            self._checks.log(self.node.name, "resumes")
            self._checks.on_thaw(self.node, self._server.loop.time() - self._frozen_at)
            self.node.thaw()

    def ask_to_stop(self) -> None:
        self._checks.log(self.node.name, "is asked to stop")
        self._checks.closing_at[self.node] = self._server.loop.time()
        self.stop.set()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
