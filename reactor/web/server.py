"""The reactor's web server: probes, metrics, status, and the operator page.

Another site's page can make a browser on this machine send requests to this server and, by DNS rebinding, read the
responses. On a loopback address the server therefore accepts only requests whose Host header names this machine.
Requests for probes and metrics may have any Host header: port-forwards, sidecars and service discovery use many names,
and the responses contain no user's data. On other addresses the host names are not fixed. There, core/settings.py
requires a token, and requests for all other data need the token.
"""

import asyncio
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from reactor.core.errors import ConfigInvalid, DatabaseFailure
from reactor.core.settings import is_loopback
from reactor.postgres.status import KnownFigures
from reactor.web.http_errors import error_json

_ANY_HOST_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_REQUEST_HEAD_TIMEOUT_S = 10.0
_WRONG_HOST: Final = error_json(403, "NOT_ALLOWED", "only this machine may ask: send Host: localhost")

_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # with no-referrer, browsers would send "Origin: null" with the page's forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

ErrorHandler = Callable[[Request, Any], Awaitable[Response]]


class _HeadTimeoutProtocol(H11Protocol):
    """A connection that closes if no complete request head arrives in 10 s. uvicorn has no such timeout."""

    _timeout: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # uvicorn's own signature
        super().connection_made(transport)
        self._update_timeout()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._update_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timeout()
        super().connection_lost(exc)

    def _update_timeout(self) -> None:
        # their_state is IDLE until the head is complete. uvicorn's keep-alive timeout starts after the first response
        if self.conn.their_state is not h11.IDLE:
            self._cancel_timeout()
        elif self._timeout is None:
            self._timeout = self.loop.call_later(_REQUEST_HEAD_TIMEOUT_S, self.transport.close)

    def _cancel_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None


class _UvicornServer(uvicorn.Server):
    """Leaves signal handlers to the command. If cancelled, closes the socket and its connections immediately."""

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            headers=list(_SECURITY_HEADERS.items()),
            server_header=False,
            proxy_headers=False,  # the audit log records the peer's address, not what a header claims
            http=_HeadTimeoutProtocol,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self._listening = listening

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Close the sockets after a cancellation. uvicorn runs the server inside this context manager."""
        try:
            yield
        finally:
            if self._listening.fileno() >= 0:  # cancelled: uvicorn did not close the socket and its connections
                asyncio.get_running_loop().remove_reader(self._listening)
                self._listening.close()
                for connection in list(self.server_state.connections):
                    connection.shutdown()


def _for_this_machine(app: ASGIApp) -> ASGIApp:
    """Return an app that refuses requests whose Host header does not name this machine."""

    # Starlette's TrustedHostMiddleware can express neither "every loopback address" nor exceptions by path
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        allowed = scope["path"] in _ANY_HOST_PATHS or _names_this_machine(Headers(scope=scope).get("host", "localhost"))
        await (app if allowed else _WRONG_HOST)(scope, receive, send)

    return answer


def _names_this_machine(host: str) -> bool:
    name, _, port = host.rpartition(":")
    name = (name if port.isdigit() else host).lower().rstrip(".")
    return is_loopback(name) or name.endswith(".localhost")  # RFC 6761 reserves .localhost for loopback addresses


class WebServer:
    """Serves GET /healthz, /readyz, /metrics and /api/status, and the routes of the operator page."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        is_private: bool,
        not_ready: Callable[[], list[str]],
        metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        known_figures: Callable[[], KnownFigures | None],
        routes: Sequence[BaseRoute],
        guard: Callable[[Request], None],
        error_handlers: Mapping[type[Exception], ErrorHandler],
    ) -> None:
        """`listening` comes from `bind`. `guard` raises HttpError to refuse a request.

        `is_private` means that the address of `listening` is loopback.
        """
        self._listening = listening
        self._not_ready = not_ready
        self._metrics = metrics
        self._status = status
        self._known_figures = known_figures
        self._guard = guard
        app = Starlette(
            routes=[
                Route("/healthz", self._get_health),
                Route("/readyz", self._get_ready),
                Route("/metrics", self._get_metrics),
                Route("/api/status", self._get_status),
                *routes,
            ],
            middleware=[Middleware(_for_this_machine)] if is_private else [],
            exception_handlers={HTTPException: _answer_http_exception, Exception: _answer_failure, **error_handlers},
        )
        app.router.redirect_slashes = False  # a redirect would repeat a forged Host header
        self._server = _UvicornServer(app, listening)
        host, port = listening.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @staticmethod
    def bind(host: str, port: int) -> socket.socket:
        """Return a socket that listens on the address; port 0 selects a free port. Raises ConfigInvalid."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ConfigInvalid(
                f"REACTOR_HTTP_PORT: can't listen on {host}:{port} ({error.strerror}); "
                "choose another, or 0 for any free one"
            ) from error
        # uvicorn sends head and body separately, which delays responses by 40 ms without TCP_NODELAY. Accepted
        # connections inherit the option; asyncio does not set it, because this socket has no explicit protocol
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening

    def serve(self) -> Coroutine[Any, Any, None]:
        """Serve until `close`, then end open requests within a second. If cancelled, close all connections immediately.

        Returns uvicorn's coroutine, which resumes ten times a second: a coroutine around it would resume as often.
        """
        return self._server.serve(sockets=[self._listening])

    def close(self) -> None:
        """End `serve`."""
        self._server.should_exit = True

    async def _get_health(self, _request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _get_ready(self, _request: Request) -> Response:
        reasons = self._not_ready()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=503 if reasons else 200)

    async def _get_metrics(self, _request: Request) -> Response:
        return Response(await self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _get_status(self, request: Request) -> Response:
        self._guard(request)
        try:
            return JSONResponse(await self._status())
        except DatabaseFailure as error:
            answer: dict[str, Any] = {"error": error.code, "message": str(error), "reasons": self._not_ready()}
            if (known := self._known_figures()) is not None:
                answer["last_figures"] = {"age_s": round(known.age_s, 1), **known.figures}
            return JSONResponse(answer, status_code=error.catalogued.http_status)


async def _answer_http_exception(request: Request, error: Any) -> Response:
    """Answer errors that Starlette raises: an unknown path, or a method that the path does not accept."""
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return error_json(405, "INVALID_ARGUMENT", f"{request.method} is not allowed here", error.headers)
    return error_json(error.status_code, "NOT_FOUND", "there is nothing here", error.headers)


async def _answer_failure(_request: Request, _failure: Exception) -> Response:
    """Answer without details; uvicorn logs the exception."""
    return error_json(500, "internal error", "the reactor failed to answer; its log has the reason")
