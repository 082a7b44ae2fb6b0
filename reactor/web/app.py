"""Builds the operator page of one reactor from its parts."""

from collections.abc import Callable

from reactor.core.settings import Settings, is_loopback
from reactor.postgres.connection import QueryRunner
from reactor.runtime.clock import Clock
from reactor.storage.spool import Spool
from reactor.web.actions import Actions
from reactor.web.auth import Sessions
from reactor.web.detail import Details
from reactor.web.listings import Listings
from reactor.web.live import LiveView
from reactor.web.recent import RecentActivity
from reactor.web.routes import Routes


class WebApp:
    """The page's routes, and `run`, the task that updates open pages."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        database: QueryRunner,
        summary_connection: QueryRunner,
        spool_free_bytes: Callable[[], int],
        spans_lost: Callable[[], tuple[int, float]],
        not_ready: Callable[[], list[str]],
        timers_by_due: Callable[[float, int, int], list[int]],
        request_reconcile: Callable[[], None],
        port: int,
        recent: RecentActivity,
    ) -> None:
        """`summary_connection` runs the page's reads, so that they never wait for the reactor's other statements."""
        self.live = LiveView(
            recent=recent,
            database=summary_connection,
            clock=clock,
            not_ready=not_ready,
            spool_free_bytes=spool_free_bytes,
            spans_lost=spans_lost,
            timers_by_due=timers_by_due,
            settings=settings,
        )
        routes = Routes(
            self.live,
            Listings(summary_connection),
            Details(summary_connection, settings),
            Actions(database=database, spool=Spool(settings.spools), request_reconcile=request_reconcile),
            Sessions(settings.http_token, is_private=is_loopback(settings.http_host), port=port),
        )
        self.run = self.live.run
        self.close = self.live.close
        self.routes = routes.routes()
        self.guard = routes.guard
        self.error_handlers = routes.error_handlers()
