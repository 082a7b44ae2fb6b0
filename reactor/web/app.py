"""Builds the operator page of one reactor from its parts, and the server that serves it."""

import socket
from collections.abc import Awaitable, Callable
from functools import partial

from anyio import create_task_group

from reactor.core.settings import Settings, answers_host
from reactor.engine.faults import DatabaseFaults
from reactor.postgres.connection import QueryRunner
from reactor.postgres.status import StatusQuery
from reactor.runtime.clock import Clock
from reactor.storage.spool import Spool
from reactor.web.actions import Actions
from reactor.web.auth import Sessions
from reactor.web.detail import Details
from reactor.web.listings import Listings
from reactor.web.live import LiveView
from reactor.web.recent import RecentActivity
from reactor.web.routes import Routes
from reactor.web.server import WebServer
from reactor.web.summary import LatestSummary


class WebApp:
    """The server of probes, metrics, status and page, and `update_pages`, the task that updates open pages."""

    def __init__(
        self,
        settings: Settings,
        *,
        listening: socket.socket,
        clock: Clock,
        database: QueryRunner,
        summary_connection: QueryRunner,
        recent: RecentActivity,
        spool_free_bytes: Callable[[], int],
        spans_lost: Callable[[], tuple[int, float]],
        instance: str,
        faults: DatabaseFaults,
        reasons: Callable[[], list[str]],
        not_ready: Callable[[], list[str]],
        metrics: Callable[[], Awaitable[bytes]],
        status: StatusQuery,
        timers_by_due: Callable[[float, int, int], list[int]],
        request_reconcile: Callable[[], None],
    ) -> None:
        """`summary_connection` runs the page's reads, so that they never wait for the reactor's other statements.

        `reasons` returns why the reactor isn't ready; `not_ready` the same with the causes first, for /readyz.
        """
        summary = LatestSummary(summary_connection, clock, faults, heartbeat_timeout_s=settings.heartbeat_timeout_s)
        self._live = LiveView(
            recent=recent,
            summary=summary,
            clock=clock,
            instance=instance,
            faults=faults,
            not_ready=reasons,
            spool_free_bytes=spool_free_bytes,
            spans_lost=spans_lost,
            timers_by_due=timers_by_due,
            settings=settings,
        )
        routes = Routes(
            self._live,
            Listings(summary_connection),
            Details(summary_connection, settings),
            Actions(database=database, spool=Spool(settings.spools), request_reconcile=request_reconcile),
            Sessions(settings.http_token, is_private=settings.is_private, port=listening.getsockname()[1]),
        )
        self._server = WebServer(
            listening,
            is_answered=partial(answers_host, http_host=settings.http_host, http_hosts=settings.http_hosts),
            not_ready=not_ready,
            metrics=metrics,
            status=status.ask,
            known_figures=lambda: status.known,
            routes=routes.routes(),
            guard=routes.guard,
            error_handlers=routes.error_handlers(),
        )
        self.url = self._server.url
        self.update_pages = self._live.run
        self._queries = (status.run, summary.run)
        self.record_status = summary.record

    async def serve(self) -> None:
        """Serve until `close`, also while the reactor finishes its last attempts."""
        async with create_task_group() as queries:
            for run in self._queries:
                queries.start_soon(run)
            async with create_task_group() as serving:
                serving.start_soon(self._server.serve)
            queries.cancel_scope.cancel()

    def close(self) -> None:
        """End all streams and `serve`."""
        self._live.close()
        self._server.close()
