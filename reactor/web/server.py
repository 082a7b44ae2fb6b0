"""The reactor's own small web server: does it live, is it ready, what does it measure, what does it see.

A page on the web can make a browser on this machine send requests here, and by DNS rebinding even read the answers.
So on a loopback address only a Host that means this machine is answered. Probes and metrics are answered to any: they
are asked under many names (port-forwards, sidecars, service discovery) and tell nothing of anybody. On another address
names can't be known; there a token is required at start (core/settings.py), and with each request that reads more than
those. Whoever connects and doesn't finish a request is let go.
"""

import asyncio
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from reactor.core.errors import ConfigInvalid, DatabaseUnavailable
from reactor.core.settings import is_loopback

_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered under any Host."""

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


_HEAD_WITHIN_S = 10.0
"""How long a request's head may take to come."""

_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # not no-referrer: a browser would then say of our own forms, too, that they come from nowhere
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every answer tells a browser."""

Guard = Callable[[Request], Response | None]
"""Returns what is answered to who may not read; None to who may."""


class _Patient(H11Protocol):
    """One connection, which is closed when a request's head doesn't come to its end. uvicorn itself waits for ever."""

    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        # IDLE is h11's word for: no whole head yet. uvicorn's patience with idle connections begins after an answer
        if self.conn.their_state is not h11.IDLE:
            self._rest()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_WITHIN_S, self.transport.close)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Headed:
    """Adds what every answer tells a browser."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        await self._app(scope, receive, headed)


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _SameMachine:
    """Refuses requests that name another host than this one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            host = Request(scope).headers.get("host")
            if host is not None and not _means_this_machine(host):
                answer = _error(403, "NOT_ALLOWED", "this is answered on this machine alone: send Host: localhost")
        await answer(scope, receive, send)


def _means_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.lower().rstrip(".")
    return is_loopback(name) or name.endswith(".localhost")  # RFC 6761: localhost and all below it are loopback


class Http:
    """Serves GET /healthz, /readyz, /metrics and /api/status, and the pages that it is given."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        not_ready: Callable[[], list[str]],
        metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        pages: Sequence[BaseRoute] = (),
        guard: Guard | None = None,
    ) -> None:
        """`guard` says who may read; without one everybody on this machine may, and nobody from elsewhere."""
        self._address = (host, port)
        self._pages = pages
        self._guard = guard or (_let_in if is_loopback(host) else _turn_away)
        self._not_ready = not_ready
        self._metrics = metrics
        self._status = status
        self._server: _Server | None = None
        self.url = ""

    def bind(self) -> socket.socket:
        """Take the address. Raises ConfigInvalid when it can't be had."""
        try:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            listening = socket.create_server(self._address, family=family)
        except OSError as error:
            raise ConfigInvalid(
                f"REACTOR_HTTP_PORT: can't listen on {self._address[0]}:{self._address[1]} ({error.strerror}); "
                "choose another, or 0 for any free one"
            ) from error
        host, port = listening.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return listening

    async def serve(self, listening: socket.socket) -> None:
        """Serve until `close`, which ends what is under way. Cancelled, it is left at once and listens no more."""
        app = Starlette(
            routes=[
                Route("/healthz", self._get_health),
                Route("/readyz", self._get_ready),
                Route("/metrics", self._get_metrics),
                Route("/api/status", self._get_status),
                *self._pages,
            ],
            middleware=[Middleware(_Headed), *([Middleware(_SameMachine)] if is_loopback(self._address[0]) else [])],
            exception_handlers={HTTPException: _refuse, Exception: _fail},
        )
        app.router.redirect_slashes = False  # a redirect would repeat whatever Host was sent
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the audit log names addresses that are seen, not what a header says
            http=_Patient,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        try:
            await self._server.serve(sockets=[listening])
        finally:
            if listening.fileno() >= 0:  # cancelled, uvicorn leaves everything as it stands
                asyncio.get_running_loop().remove_reader(listening)
                listening.close()
                for connection in list(self._server.server_state.connections):
                    connection.shutdown()

    def close(self) -> None:
        if self._server is not None:
            self._server.should_exit = True

    async def _get_health(self, _request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _get_ready(self, _request: Request) -> Response:
        reasons = self._not_ready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    async def _get_metrics(self, _request: Request) -> Response:
        return Response(await self._metrics(), media_type=_PROMETHEUS)

    async def _get_status(self, request: Request) -> Response:
        if (refusal := self._guard(request)) is not None:
            return refusal
        try:
            return JSONResponse(await self._status())
        except DatabaseUnavailable as error:
            return _error(503, error.code, str(error))


def _let_in(_request: Request) -> Response | None:
    return None


def _turn_away(_request: Request) -> Response | None:
    return _error(401, "NOT_ALLOWED", "reading from other machines needs a token, and none is set")


def _error(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`error` is a code of the catalogue; what is a failure of ours has none."""
    return JSONResponse({"error": error, "message": message}, status_code=status, headers=headers)


async def _refuse(request: Request, refusal: Exception) -> Response:
    """Answer for Starlette, which knows what isn't there and what isn't answered to a method."""
    if not isinstance(refusal, HTTPException):
        raise refusal
    if refusal.status_code == 405:  # noqa: PLR2004 - method not allowed
        return _error(405, "INVALID_ARGUMENT", f"{request.method} isn't answered here", refusal.headers)
    return _error(refusal.status_code, "NOT_FOUND", "there is nothing here", refusal.headers)


async def _fail(_request: Request, _failure: Exception) -> Response:
    """Say no more to the asker than that it failed; uvicorn logs the error itself."""
    return _error(500, "internal error", "the reactor failed to answer; its log says why")
