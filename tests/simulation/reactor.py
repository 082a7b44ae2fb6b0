"""One simulated reactor: the flow and the reactions as they are in production, on ports of the simulated world."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from anyio import Event, sleep
from attrs import evolve

from reactor.core.errors import DatabaseUnavailable
from reactor.core.settings import Settings
from reactor.engine.supervisor import work_until
from reactor.runtime.clock import Clock
from reactor.wiring import Ports, listen_with, presence_of, wire
from simulation.checks import Checks
from simulation.loop import Node
from simulation.server import Client, Server, SimulatedEar
from simulation.store import SimulatedTransfer, Storage

SETTINGS = Settings(database_url="", store_url="s3://", spools={"default": Path("/spool")})
RESTARTS_WITHIN_S = 5.0


class Process:
    """A reactor's process and the service manager that starts it again."""

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
        self._checks.tell(self.node.name, "starts")
        self.task = self.node.start(partial(self._main, self.node, self.stop))

    async def _main(self, node: Node, stop: Event) -> None:
        try:
            while not stop.is_set():
                # as `reactor run` ends when it can't start, and whoever supervises it starts it again
                with suppress(DatabaseUnavailable):
                    await self._run(node, stop)
                    break
                await sleep(RESTARTS_WITHIN_S)
        except Exception as error:  # noqa: BLE001  # whatever it is, no reactor may end so
            self._checks.violated(f"{node.name} broke: {_innermost(error)!r}")
        self._checks.tell(node.name, "has ended")

    async def _run(self, node: Node, stop: Event) -> None:
        client = Client(self._server, node)
        ports = Ports(
            clock=Clock(self._server.loop.time),
            database=client,
            claims=client,
            transfer=SimulatedTransfer(
                self._storage,
                node,
                concurrency=self._settings.upload_concurrency,
                per_tenant=self._settings.uploads_per_user,
            ),
            listener=partial(SimulatedEar, self._server, node),
        )
        emit = partial(self._checks.hear, node)
        engine = wire(ports, self._settings, horizon_s=self._settings.wheel_horizon_s, emit=emit)
        presence = presence_of(ports, version="simulated")
        await presence.report("starting", with_canary=False)
        listen = listen_with(ports, engine, presence, emit=emit)
        background_tasks = [listen.run, engine.reconcile.run]
        await work_until(stop, engine, background_tasks, grace_s=self._settings.shutdown_grace_s)
        with suppress(DatabaseUnavailable):
            await presence.deregister()

    # what happens to it

    def kill(self) -> None:
        self._checks.tell(self.node.name, "is killed")
        self.node.kill()
        for connection in list(self._server.listeners):
            if connection.node is self.node:
                connection.break_off("connection reset by peer")

    def freeze(self) -> None:
        self._checks.tell(self.node.name, "is frozen")
        self._frozen_at = self._server.loop.time()
        self.node.freeze()

    def thaw(self) -> None:
        if self.node.is_frozen:
            self._checks.tell(self.node.name, "goes on")
            self._checks.thawed(self.node, self._server.loop.time() - self._frozen_at)
            self.node.thaw()

    def ask_to_stop(self) -> None:
        self._checks.tell(self.node.name, "is told to stop")
        self._checks.closing_at[self.node] = self._server.loop.time()
        self.stop.set()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
