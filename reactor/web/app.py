"""The operator page of one reactor: wires its parts together."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from reactor.core.health import Process
from reactor.core.settings import Settings, is_loopback
from reactor.postgres import statements
from reactor.postgres.admin import LIVE_SUMMARY_CAP
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock
from reactor.storage.spool import Spool
from reactor.web import rendering
from reactor.web.actions import Actions
from reactor.web.auth import Sessions
from reactor.web.detail import Details
from reactor.web.listings import Listings
from reactor.web.live import LiveView
from reactor.web.recent import RecentActivity
from reactor.web.routes import Routes

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from reactor.web.server import ErrorHandler, Guard


class WebApp:
    """The page's routes, and the task that keeps open pages fresh."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        database: QueryRunner,
        summary_connection: QueryRunner,
        spool_free_bytes: Callable[[], int],
        not_ready: Callable[[], list[str]],
        timers_by_due: Callable[[float, int, int], list[int]],
        request_reconcile: Callable[[], None],
        port: int,
        recent: RecentActivity,
    ) -> None:
        """Wire the page.

        summary_connection: runs the page's reads, so that they never wait for the reactor's own statements.
        timers_by_due: see LiveView. port: where the web server listens; it names the session cookie.
        """
        self._recent = recent
        self._not_ready = not_ready
        self._spool_free_bytes = spool_free_bytes
        self._summary_connection = summary_connection
        self._heartbeat_timeout = timedelta(seconds=settings.heartbeat_timeout_s)
        self.live = LiveView(
            recent,
            clock=clock,
            read_summary=self._read_summary,
            process=self._process,
            timers_by_due=timers_by_due,
            horizon_s=settings.wheel_horizon_s,
            render=rendering.panels,
        )
        routes = Routes(
            self.live,
            Listings(summary_connection),
            Details(summary_connection, heartbeat_timeout_s=settings.heartbeat_timeout_s, trace_url=settings.trace_url),
            Actions(database, spool=Spool(settings.spools), request_reconcile=request_reconcile),
            Sessions(settings.http_token, is_private=is_loopback(settings.http_host), port=port),
        )
        self.routes: Sequence[BaseRoute] = routes.routes()
        self.guard: Guard = routes.guard
        self.error_handlers: Mapping[type[Exception], ErrorHandler] = routes.error_handlers()

    async def run(self) -> None:
        """Keep open pages fresh. Never returns."""
        await to_thread.run_sync(rendering.warm)
        await self.live.run()

    def close(self) -> None:
        """End the streams of open pages, so that the server's shutdown does not wait for them."""
        self.live.close()

    async def _read_summary(self) -> dict[str, Any]:
        parameters = (self._heartbeat_timeout, LIVE_SUMMARY_CAP)
        [(summary,)] = await self._summary_connection.call(statements.LIVE_SUMMARY, parameters)
        return dict(summary)

    def _process(self) -> Process:
        return self._recent.process(not_ready=self._not_ready(), spool_free_bytes=self._spool_free_bytes())
