"""The reactor's own small web server: does it live, is it ready, what does it measure, what does it see."""

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reactor.core.errors import ConfigInvalid, DatabaseUnavailable

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
            ]
        )
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
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
            return JSONResponse({"error": error.code, "message": str(error)}, status_code=503)
