"""The composition root: opens what the settings name, wires it together, runs it, and shuts it down in order.

settings = load(os.environ)
await Reactor(settings).run()
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from anyio import CancelScope, Event, create_task_group, to_thread
from loguru import logger

from reactor import __version__
from reactor.core.errors import ConfigInvalid, DatabaseUnavailable, StorageUnavailable
from reactor.core.events import Emit, ListenerLost, Listening, Polling
from reactor.core.events import Event as Happening
from reactor.core.settings import Settings
from reactor.engine.readiness import Readiness
from reactor.engine.reconcile import Changes
from reactor.engine.supervisor import Engine, work_until, working
from reactor.postgres import statements
from reactor.postgres.connection import ConnectionPool, DedicatedConnection
from reactor.postgres.listener import Listener
from reactor.postgres.migrate import plan
from reactor.postgres.status import StatusQuery
from reactor.runtime.clock import Clock
from reactor.storage.spool import Spool
from reactor.storage.stores import open_store
from reactor.storage.stores.base import ObjectStore
from reactor.storage.transfer import SpoolToStore
from reactor.telemetry.dispatcher import Dispatcher
from reactor.web.app import Page
from reactor.web.server import Http
from reactor.wiring import Ports, listen_with, presence_of, wire

_ON_READINESS = (Listening, ListenerLost, Polling)
_CONNECTIONS = 3
_DRAIN_HORIZON_S = 1.0


class Reactor:
    """One reactor, in this process."""

    def __init__(self, settings: Settings, *, store: ObjectStore | None = None, listener: Emit | None = None) -> None:
        """`store` takes the place of the one that the settings name; `listener` hears every event as well."""
        self.settings = settings
        self.telemetry = Dispatcher(
            __version__,
            os.environ,
            timers=lambda: 0 if self._engine is None else len(self._engine.schedule),
            spool_free_bytes=lambda: 0 if self._spool is None else self._spool.free_bytes(),
            status=lambda: self._status,
        )
        self._store = store
        self._listeners = [] if listener is None else [listener]
        self._stop = Event()
        self._engine: Engine | None = None
        self._spool: Spool | None = None
        self._status: dict[str, Any] = {}
        self._figures: StatusQuery | None = None
        self._readiness: Readiness | None = None
        self._page: Page | None = None
        self._ready: Callable[[], None] = lambda: None
        self.http_url = ""
        """Where the HTTP server listens; empty before it does."""

    def stop(self) -> None:
        """Shut down: claim no more, finish or hand back what is in flight within the grace period."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Return whether `stop` was called."""
        return self._stop.is_set()

    def not_ready(self) -> list[str]:
        """Return why the reactor isn't ready, a line each; empty when it is."""
        if self._readiness is None:
            return ["starting"]
        ending = ["shutting down"] if self._stop.is_set() else []
        return ending + self._readiness.missing()

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Run until `stop`. Calls `ready` each time that readiness may have changed.

        Raises ConfigInvalid and DatabaseUnavailable when it can't start.
        """
        async with self._opened() as opened, AsyncExitStack() as stack:
            looks = DedicatedConnection(self.settings.database_url or "")
            stack.push_async_callback(looks.close)
            page = self._page = self._open_page(opened, looks)
            http = self._http(page)
            socket = stack.enter_context(http.bind())  # closed however this ends
            self.http_url = http.url
            page.tell_port(http.url)
            engine = self._engine = self._wire(opened, self.settings.wheel_horizon_s)
            page.attach(spread=engine.schedule.spread, reconcile=engine.reconcile.request)
            presence = presence_of(opened, version=__version__)
            await presence.report("starting", with_canary=False)
            listen = listen_with(opened, engine, presence, emit=self._emit)
            self._readiness = Readiness(listen, engine.reconcile, presence, engine.clock)
            self._ready = engine.reconcile.on_pass = ready
            background_tasks = [listen.run, engine.reconcile.run, page.run]
            if self.telemetry.pushes and self._figures is not None:
                background_tasks.append(self._figures.keep_fresh)
            async with create_task_group() as tasks:
                tasks.start_soon(http.serve, socket)
                await work_until(self._stop, engine, background_tasks, grace_s=self.settings.shutdown_grace_s)
                with suppress(DatabaseUnavailable):  # the others will see it by themselves
                    await presence.deregister()
                page.close()
                http.close()

    async def drain(self) -> None:
        """Do one reconciliation to completion, and return when nothing that was due is left undone.

        Every due upload is tried once and every stale run is failed; nothing is listened to.
        """
        changes = Changes()
        self._listeners.append(changes)
        async with self._opened() as opened:
            engine = self._engine = self._wire(opened, _DRAIN_HORIZON_S)
            presence = presence_of(opened, version=__version__)
            await presence.report("starting", with_canary=False)
            async with working(engine) as running:
                more = True
                while more and not self._stop.is_set():
                    spent = running.spent
                    await engine.reconcile.once()
                    await engine.reconcile.bring_more()  # while what a short first look found is worked on
                    await running.until_idle(self._stop)
                    engine.reconcile.tell(changes)
                    changes.clear()
                    # a store that is down spends nothing: what it didn't take waits for the next reconciliation
                    more = engine.reconcile.has_more and running.spent > spent
                await running.finish(self.settings.shutdown_grace_s)
            await presence.deregister()

    async def status(self) -> dict[str, Any]:
        """Return what the database says of uploads, runs, reactors and usage, and the users closest to a limit."""
        if self._figures is None:
            raise DatabaseUnavailable("the reactor hasn't opened its database yet")
        return await self._figures.ask_with_users()

    # opening

    def _listen_conninfo(self) -> str:
        return self.settings.listen_url or self.settings.database_url or ""

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Ports]:
        """Open and check what the settings name, all of it before any work is begun."""
        if self.settings.database_url is None:
            raise ConfigInvalid("REACTOR_DATABASE_URL isn't set: set it to the database's URL")
        spool = self._spool = Spool(self.settings.spools)
        spool.check()
        store = self._store or open_store(self.settings.store_url, concurrency=self.settings.upload_concurrency)
        try:
            await to_thread.run_sync(store.check)
        except StorageUnavailable as error:
            logger.warning("store {}: {}; uploads wait until it answers", store.name, error)
        url = self.settings.database_url
        database = ConnectionPool(url, size=_CONNECTIONS)
        # an attempt begins without waiting for the disk: what is kept of it comes with its settlement, whose commit
        # makes the claim durable too. Where a crash forgets it, the row is due again, and its token settles nothing
        claims = DedicatedConnection(url, waits_for_disk=False)
        try:
            await database.open()
            await _check_schema(database, url)
            yield Ports(
                clock=Clock(),
                database=database,
                claims=claims,
                transfer=SpoolToStore(
                    spool,
                    store,
                    concurrency=self.settings.upload_concurrency,
                    per_tenant=self.settings.uploads_per_user,
                ),
                listener=partial(Listener, self._listen_conninfo()),
            )
        finally:
            with CancelScope(shield=True):
                await claims.close()
                await database.close()
                await to_thread.run_sync(store.close)
                await self.telemetry.close()

    def _wire(self, opened: Ports, horizon_s: float) -> Engine:
        self._figures = StatusQuery(
            opened.database,
            opened.clock,
            heartbeat_timeout_s=self.settings.heartbeat_timeout_s,
            hear=self._hear_status,
        )
        return wire(opened, self.settings, horizon_s=horizon_s, emit=self._emit)

    def _open_page(self, opened: Ports, looks: DedicatedConnection) -> Page:
        return Page(
            self.settings,
            clock=opened.clock,
            database=opened.database,
            looks=looks,
            spool_free_bytes=lambda: 0 if self._spool is None else self._spool.free_bytes(),
            not_ready=self.not_ready,
        )

    # what it tells

    def _hear_status(self, figures: dict[str, Any]) -> None:
        self._status = figures
        if self._page is not None:
            self._page.live.remember(figures)

    def _emit(self, event: Happening) -> None:
        self.telemetry(event)
        if self._readiness is not None:
            self._readiness.hear(event)
        if self._page is not None:
            self._page.memory.hear(event)
        for listener in self._listeners:
            listener(event)
        if isinstance(event, _ON_READINESS):
            self._ready()

    def _http(self, page: Page) -> Http:
        return Http(
            self.settings.http_host,
            self.settings.http_port,
            not_ready=self.not_ready,
            metrics=self._metrics,
            status=self.status,
            pages=page.routes,
            guard=page.guard,
        )

    async def _metrics(self) -> bytes:
        """Return the metrics; the database's figures in them may be some seconds old (see StatusQuery), or missing."""
        if self._figures is not None:
            await self._figures.refresh()
        return self.telemetry.prometheus()


async def _check_schema(database: ConnectionPool, conninfo: str) -> None:
    """Refuse to start on a database that isn't migrated, or as a role that can't see or do the work."""
    steps = await to_thread.run_sync(plan, conninfo)
    missing = [step.file.name for step in steps if step.state != "applied"]
    if missing:
        raise DatabaseUnavailable(
            f"the database lacks {len(missing)} of {len(steps)} schema files ({missing[0]}, …): run `reactor migrate`"
        )
    problems = [row[0] for row in await database.call(statements.MISSING_PRIVILEGES)]
    if problems:
        raise DatabaseUnavailable("; ".join(problems) + ": connect as reactor_worker or the tables' owner")
