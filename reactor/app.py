"""The composition root: opens what the settings name, wires it together, runs it, and shuts it down in order.

    settings = load(os.environ)
    await Reactor(settings).run()
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, Event, create_task_group, to_thread
from attrs import frozen
from loguru import logger

from reactor import __version__
from reactor.core.backoff import Backoff
from reactor.core.breaker import Breaker
from reactor.core.errors import ConfigInvalid, DatabaseUnavailable, StorageUnavailable
from reactor.core.events import Emit, ListenerLost, Listening, Polling
from reactor.core.events import Event as Happening
from reactor.core.settings import Settings
from reactor.edge import statements
from reactor.edge.books import Books
from reactor.edge.clock import Clock
from reactor.edge.http import Http
from reactor.edge.inspect import FULLEST_USERS
from reactor.edge.migrate import plan
from reactor.edge.objects import open_store
from reactor.edge.objects.base import ObjectStore
from reactor.edge.postgres import Database, Line, Listener
from reactor.edge.pulse import Pulse
from reactor.edge.queue import Runs, UploadQueue
from reactor.edge.spool import Spool
from reactor.edge.telemetry import Telemetry
from reactor.flow.engine import Engine, working
from reactor.flow.listen import SILENT_AFTER_S, Listen
from reactor.flow.readiness import Readiness
from reactor.flow.reconcile import Reconcile
from reactor.flow.schedule import Lane, Schedule
from reactor.flow.wakeup import Wakeup
from reactor.flow.work import BATCH, Work
from reactor.reactions.runs import StaleRuns
from reactor.reactions.uploads import FailedUploads

if TYPE_CHECKING:
    from reactor.reactions.base import Reaction

_STATUS_AGE_S = 5.0
_CONNECTIONS = 3
_DRAIN_HORIZON_S = 1.0


@frozen(kw_only=True)
class _Opened:
    """What the settings name, opened and checked."""

    database: Database
    claims: Line
    spool: Spool
    store: ObjectStore


class Reactor:
    """One reactor, in this process."""

    def __init__(
        self, settings: Settings, *, store: ObjectStore | None = None, listener: Emit | None = None
    ) -> None:
        """`store` takes the place of the one that the settings name; `listener` hears every event as well."""
        self.settings = settings
        self.telemetry = Telemetry(__version__)
        self._store = store
        self._listener = listener
        self._stop = Event()
        self._engine: Engine | None = None
        self._database: Database | None = None
        self._readiness: Readiness | None = None
        self._status_at = float("-inf")
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
            http = self._http()
            socket = stack.enter_context(http.bind())  # closed however this ends
            self.http_url = http.url
            engine = self._engine = self._wire(opened, self.settings.wheel_horizon_s)
            pulse = Pulse(opened.database, engine.clock, version=__version__, silent_after_s=SILENT_AFTER_S)
            await pulse.send("starting", with_canary=False)
            crews = {reaction.channel: (reaction, work) for reaction, work in engine.crews}
            listen = Listen(
                Listener(self._listen_conninfo(), [*crews, pulse.channel]),
                pulse,
                crews,
                engine.schedule,
                engine.reconcile,
                clock=engine.clock,
                emit=self._emit,
            )
            self._readiness = Readiness(listen, engine.reconcile, pulse, engine.clock)
            self._ready = engine.reconcile.on_pass = ready
            async with create_task_group() as tasks, working(engine) as works:
                tasks.start_soon(http.serve, socket)
                with CancelScope() as hearing:
                    async with create_task_group() as ears:
                        ears.start_soon(listen.run)
                        ears.start_soon(engine.reconcile.run)
                        await self._stop.wait()
                        hearing.cancel()
                await works.finish(self.settings.shutdown_grace_s)
                with suppress(DatabaseUnavailable):  # the others will see it by themselves
                    await pulse.leave()
                http.close()

    async def drain(self) -> None:
        """Do one reconciliation to completion, and return when nothing that was due is left undone.

        Every due upload is tried once and every stale run is failed; nothing is listened to.
        """
        async with self._opened() as opened:
            engine = self._engine = self._wire(opened, _DRAIN_HORIZON_S)
            pulse = Pulse(opened.database, engine.clock, version=__version__, silent_after_s=SILENT_AFTER_S)
            await pulse.send("starting", with_canary=False)
            async with working(engine) as works:
                more = True
                while more and not self._stop.is_set():
                    spent = works.spent
                    await engine.reconcile.once()
                    await works.until_idle(self._stop)
                    # a store that is down spends nothing: what it didn't take waits for the next reconciliation
                    more = engine.reconcile.has_more and works.spent > spent
                await works.finish(self.settings.shutdown_grace_s)
            await pulse.leave()

    async def status(self) -> dict[str, Any]:
        """Return what the database says of uploads, runs, reactors and usage, and the users closest to a limit."""
        status = await self._measure()
        [(users,)] = await self._open_database().call(statements.FULLEST_USERS, (FULLEST_USERS,))
        return status | {"users": users}

    async def _measure(self) -> dict[str, Any]:
        """Ask the database for what the gauges show."""
        patience = timedelta(seconds=self.settings.heartbeat_timeout_s)
        [(self.telemetry.status,)] = await self._open_database().call(statements.STATUS, (patience,))
        return self.telemetry.status

    def _open_database(self) -> Database:
        if self._database is None:
            raise DatabaseUnavailable("the reactor hasn't opened its database yet")
        return self._database

    # opening

    def _listen_conninfo(self) -> str:
        return self.settings.listen_url or self.settings.database_url or ""

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator["_Opened"]:
        """Open and check what the settings name, all of it before any work is begun."""
        if self.settings.database_url is None:
            raise ConfigInvalid("REACTOR_DATABASE_URL isn't set: set it to the database's URL")
        spool = Spool(self.settings.spools)
        spool.check()
        self.telemetry.spool_free_bytes = spool.free_bytes
        store = self._store or open_store(self.settings.store_url, concurrency=self.settings.upload_concurrency)
        try:
            await to_thread.run_sync(store.check)
        except StorageUnavailable as error:
            logger.warning("store {}: {}; uploads wait until it answers", store.name, error)
        url = self.settings.database_url
        database, claims = Database(url, size=_CONNECTIONS), Line(url)
        try:
            await database.open()
            await _check_schema(database, url)
            self._database = database
            yield _Opened(database=database, claims=claims, spool=spool, store=store)
        finally:
            with CancelScope(shield=True):
                await claims.close()
                await database.close()
                await to_thread.run_sync(store.close)
                self.telemetry.close()

    def _wire(self, opened: "_Opened", horizon_s: float) -> Engine:
        settings, clock = self.settings, Clock()
        uploads = FailedUploads(
            UploadQueue(opened.database, claims=opened.claims, lease_s=settings.lease_s),
            spool=opened.spool,
            store=opened.store,
            backoff=Backoff(
                base_s=settings.retry_base_s,
                factor=settings.retry_factor,
                max_s=settings.retry_max_s,
                jitter=settings.retry_jitter,
            ),
            breaker=Breaker(),
            clock=clock,
            emit=self._emit,
            concurrency=settings.upload_concurrency,
            attempt_timeout_s=settings.attempt_timeout_s,
            lease_s=settings.lease_s,
        )
        runs = StaleRuns(
            Runs(opened.database, heartbeat_timeout_s=settings.heartbeat_timeout_s),
            heartbeat_timeout_s=settings.heartbeat_timeout_s,
            emit=self._emit,
        )
        lanes = {uploads.name: Lane(), runs.name: Lane()}
        schedule = Schedule(clock, lanes, horizon_s=horizon_s, emit=self._emit)
        self.telemetry.timers = lambda: len(schedule)
        quiet = Wakeup()
        crews: list[tuple[Reaction[Any], Work[Any]]] = []
        for reaction, concurrency, per_tenant in (
            (uploads, settings.upload_concurrency, settings.uploads_per_user),
            (runs, BATCH, BATCH),
        ):
            work: Work[Any] = Work(
                reaction,
                lanes[reaction.name],
                schedule,
                clock=clock,
                emit=self._emit,
                concurrency=concurrency,
                per_tenant=per_tenant,
                lease_s=settings.lease_s,
                on_idle=quiet.set,
            )
            crews.append((reaction, work))
        reconcile = Reconcile(
            crews,
            schedule,
            Books(opened.database),
            clock=clock,
            emit=self._emit,
            interval_s=settings.reconcile_interval_s,
            horizon_s=horizon_s,
        )
        return Engine(clock=clock, schedule=schedule, crews=crews, reconcile=reconcile, quiet=quiet)

    # what it tells

    def _emit(self, event: Happening) -> None:
        self.telemetry(event)
        if self._readiness is not None:
            self._readiness.hear(event)
        if self._listener is not None:
            self._listener(event)
        if isinstance(event, Listening | ListenerLost | Polling):
            self._ready()

    def _http(self) -> Http:
        return Http(
            self.settings.http_host,
            self.settings.http_port,
            not_ready=self.not_ready,
            metrics=self._metrics,
            status=self.status,
        )

    async def _metrics(self) -> bytes:
        """Return the metrics; the database's figures in them are a few seconds old at most, or missing."""
        engine = self._engine
        if engine is not None and engine.clock.now() - self._status_at > _STATUS_AGE_S:
            try:
                await self._measure()
                self._status_at = engine.clock.now()
            except DatabaseUnavailable:
                self.telemetry.status = {}
        return self.telemetry.prometheus()


async def _check_schema(database: Database, conninfo: str) -> None:
    """Refuse to start on a database that isn't migrated, or as a role that can't see or do the work."""
    steps = await to_thread.run_sync(plan, conninfo)
    missing = [step.file.name for step in steps if step.state != "applied"]
    if missing:
        raise DatabaseUnavailable(
            f"the database lacks {len(missing)} of {len(steps)} schema files ({missing[0]}, …): run `reactor migrate`"
        )
    problems = [row[0] for row in await database.call(statements.WHAT_IS_MISSING)]
    if problems:
        raise DatabaseUnavailable("; ".join(problems) + ": connect as reactor_worker or the tables' owner")

