"""The reactor's own small web server: does it live, is it ready, what does it measure, what does it see.

A page on the web can make a browser on this machine send requests here, and by DNS rebinding even read the answers.
So on a loopback address only a Host that means this machine is answered. Probes and metrics are answered to any: they
are asked under many names (port-forwards, sidecars, service discovery) and tell nothing of anybody. On another address
names can't be known; there a token is required at start (core/settings.py).
"""

import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from reactor.core.errors import ConfigInvalid, DatabaseUnavailable
from reactor.core.settings import is_loopback

_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Answered under any Host."""

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


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
    """Serves GET /healthz, /readyz, /metrics and /api/status."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        not_ready: Callable[[], list[str]],
        metrics: Callable[[], Awaitable[bytes]],
        status: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._address = (host, port)
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
        """Serve until `close`."""
        app = Starlette(
            routes=[
                Route("/healthz", self._get_health),
                Route("/readyz", self._get_ready),
                Route("/metrics", self._get_metrics),
                Route("/api/status", self._get_status),
            ],
            middleware=[Middleware(_SameMachine)] if is_loopback(self._address[0]) else [],
            exception_handlers={HTTPException: _refuse, Exception: _fail},
        )
        app.router.redirect_slashes = False  # a redirect would repeat whatever Host was sent
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        await self._server.serve(sockets=[listening])

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

    async def _get_status(self, _request: Request) -> Response:
        try:
            return JSONResponse(await self._status())
        except DatabaseUnavailable as error:
            return _error(503, error.code, str(error))


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
