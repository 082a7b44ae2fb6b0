"""The page of one reactor, put together."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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
from reactor.web.detail import Items
from reactor.web.listings import Lists
from reactor.web.live import Live
from reactor.web.recent import Memory
from reactor.web.routes import Site

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute


class Page:
    """Everything behind the page's addresses."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        database: QueryRunner,
        looks: QueryRunner,
        spool_free_bytes: Callable[[], int],
        not_ready: Callable[[], list[str]],
    ) -> None:
        """`looks` is a connection that does nothing but look: whoever reads stands in nobody's way."""
        self._spread: Callable[..., list[int]] = lambda _width_s, count, **_: [0] * count
        self._reconcile: Callable[[], None] = lambda: None
        self._not_ready = not_ready
        self._spool_free_bytes = spool_free_bytes
        self._looks = looks
        self._heartbeat_timeout = timedelta(seconds=settings.heartbeat_timeout_s)
        self.memory = Memory(clock, on_change=self._show_change)
        self.live = Live(
            self.memory,
            clock=clock,
            look=self._look,
            process=self._process,
            spread=lambda width_s, count, sample: self._spread(width_s, count, sample=sample),
            horizon_s=settings.wheel_horizon_s,
            draw=rendering.panels,
        )
        self._sessions = Sessions(settings.http_token, is_private=is_loopback(settings.http_host))
        site = Site(
            self.live,
            Lists(looks),
            Items(looks, heartbeat_timeout_s=settings.heartbeat_timeout_s, trace_url=settings.trace_url),
            Actions(database, spool=Spool(settings.spools), reconcile=self._begin_reconciliation),
            self._sessions,
        )
        self.routes: Sequence[BaseRoute] = site.routes()
        self.guard: Callable[[Request], Response | None] = site.guard

    def attach(self, *, spread: Callable[..., list[int]], reconcile: Callable[[], None]) -> None:
        """Say what tells of the wheel what is due when, and what begins a whole pass."""
        self._spread, self._reconcile = spread, reconcile

    def tell_port(self, url: str) -> None:
        """Say where the page is: browsers tell cookies apart by host alone, and a machine may have several reactors."""
        self._sessions.cookie = f"reactor_session_{urlsplit(url).port}"

    async def run(self) -> None:
        """Keep open pages fresh; never returns."""
        await to_thread.run_sync(rendering.warm)
        await self.live.run()

    def close(self) -> None:
        """End what pages are open, so that nothing waits for them."""
        self.live.close()

    async def _look(self) -> dict[str, Any]:
        [(seen,)] = await self._looks.call(statements.LIVE_SUMMARY, (self._heartbeat_timeout, LIVE_SUMMARY_CAP))
        return dict(seen)

    def _process(self) -> Process:
        return self.memory.process(not_ready=self._not_ready(), spool_free_bytes=self._spool_free_bytes())

    def _begin_reconciliation(self) -> None:
        self._reconcile()

    def _show_change(self) -> None:
        self.live.stir()
