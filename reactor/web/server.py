"""The reactor's web server: probes, metrics, status, and the operator page.

Another site's page can make a browser send requests to this server and, by DNS rebinding, read the responses. The
server therefore answers only requests whose Host header names this machine or a name of REACTOR_HTTP_HOSTS; on an
address that isn't loopback, also an address. Requests for probes and metrics may have any Host header: port-forwards,
sidecars and service discovery use many names, and the responses contain no user's data. If other machines can reach
the server, core/settings.py requires a token, and requests for all other data need the token.
"""

import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from reactor.core.errors import ConfigInvalid, DatabaseFailure
from reactor.postgres.status import KnownFigures
from reactor.web.connections import ConnectionServer
from reactor.web.http_errors import error_json

_ANY_HOST_PATHS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_WRONG_HOST: Final = error_json(403, "NOT_ALLOWED", "this host name isn't answered: add it to REACTOR_HTTP_HOSTS")

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


def _for_hosts(app: ASGIApp, is_answered: Callable[[str], bool]) -> ASGIApp:
    """Return an app that refuses requests whose Host header `is_answered` refuses."""

    # Starlette's TrustedHostMiddleware can express neither "every loopback address" nor exceptions by path
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        allowed = scope["path"] in _ANY_HOST_PATHS or is_answered(Headers(scope=scope).get("host", "localhost"))
        await (app if allowed else _WRONG_HOST)(scope, receive, send)

    return answer


class WebServer:
    """Serves GET /healthz, /readyz, /metrics and /api/status, and the routes of the operator page."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        is_answered: Callable[[str], bool],
        not_ready: Callable[[], list[str]],
        metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], Awaitable[dict[str, Any]]],
        known_figures: Callable[[], KnownFigures | None],
        routes: Sequence[BaseRoute],
        guard: Callable[[Request], None],
        error_handlers: Mapping[type[Exception], ErrorHandler],
    ) -> None:
        """`listening` comes from `bind`. `guard` raises HttpError to refuse a request.

        `is_answered` returns whether to answer requests with this Host header.
        """
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
            middleware=[Middleware(_for_hosts, is_answered)],
            exception_handlers={HTTPException: _answer_http_exception, Exception: _answer_failure, **error_handlers},
        )
        app.router.redirect_slashes = False  # a redirect would repeat a forged Host header
        self._server = ConnectionServer(app, listening, headers=list(_SECURITY_HEADERS.items()))
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
        return self._server.serve(sockets=[])  # it accepts its connections itself

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
