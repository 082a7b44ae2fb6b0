"""Opens the database, store and spools of the settings, runs a reactor on them, and shuts it down in order.

settings = load(os.environ)
await Reactor(settings).run()
"""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from anyio import CancelScope, Event, create_task_group, to_thread
from loguru import logger

from reactor import __version__
from reactor.core import events
from reactor.core.errors import ConfigInvalid, DatabaseFailure, DatabaseUnavailable, StorageRefused, StorageUnavailable
from reactor.core.events import Emit
from reactor.core.settings import Settings
from reactor.engine.changes import Changes
from reactor.parts import Parts, build_parts
from reactor.postgres.connection import DedicatedConnection
from reactor.postgres.migrate import check_schema
from reactor.storage.spool_probe import least_free_bytes
from reactor.storage.stores.base import ObjectStore
from reactor.telemetry.listener import logged
from reactor.web.app import WebApp
from reactor.web.server import WebServer
from reactor.wiring import wire_engine, wire_listen

if TYPE_CHECKING:
    from reactor.engine.supervisor import Engine

_DRAIN_HORIZON_S = 1.0


class Reactor:
    """One reactor, in this process."""

    def __init__(self, settings: Settings, *, store: ObjectStore | None = None, listener: Emit | None = None) -> None:
        """`store` replaces the store of the settings. `listener` gets each event; its errors are logged."""
        self.settings = settings
        self._store = store
        self._listener = listener
        self._stop = Event()
        self._has_begun = False
        self._has_started = Event()
        self._parts: Parts | None = None
        self._engine: Engine | None = None
        self._web: WebApp | None = None
        self.skipped: Sequence[str] = ()
        """What `drain` couldn't do, one line each, with the reason."""
        self.http_url = ""
        """URL of the HTTP server; empty before the server listens."""

    def stop(self) -> None:
        """Shut down: claim no more rows, wait up to the grace period for running attempts, then hand back the rest."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def not_ready(self) -> list[str]:
        """Return why the reactor is not ready, one line each, the causes first; empty when it is ready."""
        if self._parts is None:
            return ["starting"]
        return self._parts.faults.explain(self._reasons())

    def _reasons(self) -> list[str]:
        ending = ["shutting down"] if self._stop.is_set() else []
        return ending + self._running_parts().readiness.reasons()

    async def wait_ready(self, *, ready: bool = True) -> None:
        """Wait until the reactor is ready (listening, reconciled, database answers); with `ready=False`: not ready."""
        await self._has_started.wait()
        await self._running_parts().readiness.wait(ready=ready)

    @property
    def emit(self) -> Emit:
        """The function that passes an event to the subscribers, log lines, metrics and spans."""
        return self._running_parts().dispatcher

    async def reconcile(self) -> None:
        """Request a whole reconciliation pass; return when a pass that began after this call has ended."""
        await self._has_started.wait()
        if self._engine is not None:
            await self._engine.reconcile.request_and_wait()

    async def status(self) -> dict[str, Any]:
        """Return the database's figures, and the users closest to a limit. Raises DatabaseUnavailable in an outage."""
        return await self._running_parts().status.ask()

    async def metrics(self) -> bytes:
        """Return the metrics as Prometheus text. The database's figures may be seconds old, or missing."""
        parts = self._running_parts()
        await parts.status.refresh()
        return parts.dispatcher.prometheus()

    def run(self) -> Coroutine[Any, Any, None]:
        """Run until `stop` is called. Raises ConfigInvalid or DatabaseUnavailable if the reactor can't start.

        Raises RuntimeError when it is called, not when it is awaited, if `run` or `stop` was called before.
        """
        if self._has_begun or self._stop.is_set():
            raise RuntimeError("this Reactor has run or was stopped: create another one for each run")
        self._has_begun = True
        return self._run()

    async def _run(self) -> None:
        async with self._opened() as parts, AsyncExitStack() as stack:
            summary_connection = DedicatedConnection(self.settings.database_url or "")
            stack.push_async_callback(summary_connection.close)
            listening = stack.enter_context(WebServer.bind(self.settings.http_host, self.settings.http_port))
            engine = self._engine = wire_engine(
                parts.ports, self.settings, horizon_s=self.settings.wheel_horizon_s, emit=parts.dispatcher
            )
            web = self._web = WebApp(
                self.settings,
                clock=parts.ports.clock,
                database=parts.ports.database,
                summary_connection=summary_connection,
                recent=parts.recent,
                spool_free_bytes=partial(least_free_bytes, self.settings.spools),
                spans_lost=parts.dispatcher.spans_lost,
                instance=str(parts.presence.instance),
                faults=parts.faults,
                reasons=self._reasons,
                not_ready=self.not_ready,
                metrics=self.metrics,
                status=parts.status,
                timers_by_due=engine.schedule.timers_by_due,
                request_reconcile=engine.requests.request_pass,
                listening=listening,
            )
            self.http_url = web.url
            parts.presence.port = listening.getsockname()[1]
            await parts.presence.report("starting", with_canary=False)
            listen = wire_listen(parts.ports, engine, parts.presence, emit=parts.dispatcher)
            background_tasks = [listen.run, engine.reconcile.run, parts.recent.run, web.update_pages]
            if parts.dispatcher.pushes:
                background_tasks.append(parts.status.keep_fresh)
            self._has_started.set()
            async with create_task_group() as tasks:
                tasks.start_soon(web.serve)
                await engine.run_until(self._stop, background_tasks, grace_s=self.settings.shutdown_grace_s)
                with suppress(DatabaseFailure):  # then other reactors notice when the last report expires
                    await parts.presence.deregister()
                web.close()

    async def drain(self) -> None:
        """Run reconciliation passes without listening, until no due row is left in the database.

        Tries each due upload once, and fails each stale run. Uploads that are deferred stay due.
        """
        changes = Changes()
        async with self._opened(changes) as parts:
            engine = self._engine = wire_engine(
                parts.ports, self.settings, horizon_s=_DRAIN_HORIZON_S, emit=parts.dispatcher
            )
            await parts.presence.report("starting", with_canary=False)
            async with engine.running():
                has_more = True
                while has_more and not self._stop.is_set():
                    spent_before = engine.spent
                    await engine.reconcile.run_pass()
                    await engine.reconcile.refill()  # the first sweep lists fewer rows than a later one
                    await engine.until_idle(self._stop)
                    self.skipped = engine.reconcile.skipped
                    engine.reconcile.emit_reconciled(changes)
                    changes.clear()
                    # if all attempts were deferred, the store is down: leave its uploads for the next call
                    has_more = engine.reconcile.has_more and engine.spent > spent_before
                await engine.finish(self.settings.shutdown_grace_s)
            await parts.presence.deregister()

    @asynccontextmanager
    async def _opened(self, changes: Changes | None = None) -> AsyncIterator[Parts]:
        """Open and check the store, the spools and the database before any row is claimed."""
        if self.settings.database_url is None:
            raise ConfigInvalid("REACTOR_DATABASE_URL isn't set: set it to the database's URL")
        subscribers = [] if changes is None else [changes.subscriptions()]
        if self._listener is not None:
            subscribers.append(dict.fromkeys(events.EVENT_TYPES, logged(self._listener)))
        parts = self._parts = build_parts(
            self.settings,
            self.settings.database_url,
            version=__version__,
            store=self._store,
            subscribers=subscribers,
            timers=self._count_timers,
            on_status=self._on_status,
        )
        try:
            try:
                await to_thread.run_sync(parts.store.check)
            except (StorageUnavailable, StorageRefused) as error:
                logger.warning("Store {}: {}. Uploads wait until it answers.", parts.store.name, error)
            await parts.database.open()
            await check_schema(parts.database, self.settings.database_url)
            yield parts
        finally:
            with CancelScope(shield=True):
                parts.executor.close()
                await parts.claims.close()
                await parts.database.close()
                await to_thread.run_sync(parts.store.close)
                await parts.dispatcher.close()

    def _on_status(self, figures: dict[str, Any]) -> None:
        if self._web is not None:
            self._web.record_status(figures)

    def _count_timers(self) -> int:
        return 0 if self._engine is None else len(self._engine.schedule)

    def _running_parts(self) -> Parts:
        if self._parts is None:
            raise DatabaseUnavailable("the reactor has not opened its database yet")
        return self._parts
