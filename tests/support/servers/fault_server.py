"""An HTTP server that records its requests and answers each with the fault that the test has set.

A fault is a function that receives the request and answers it, or breaks the connection.
"""

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_PIECE_BYTES = 64 * 1024

Fault = Callable[["Request"], None]


class Request(BaseHTTPRequestHandler):
    """One request, with the methods that a fault calls."""

    protocol_version = "HTTP/1.1"
    server: "_Server"
    requests_before = 0
    """Number of earlier requests on the same connection."""

    def setup(self) -> None:
        super().setup()
        with self.server.faults.lock:
            self.server.faults.connections += 1

    def handle_one(self) -> None:
        faults = self.server.faults
        with faults.lock:
            faults.requests.append(f"{self.command} {self.path}")
            faults.headers.append(dict(self.headers.items()))
        self.requests_before += 1
        faults.fault(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815 - names that http.server requires

    def handle_expect_100(self) -> bool:
        on_reuse = self.server.faults.on_reuse
        if on_reuse is not None and self.requests_before:
            with self.server.faults.lock:
                self.server.faults.reused += 1
            self.close_connection = True
            on_reuse(self)
            return False
        return True if self.server.faults.never_continues else super().handle_expect_100()

    def body(self) -> bytes:
        """Read and return the body, or a part of the body if the client disconnects."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def store(self) -> None:
        """Store the body if all of it has arrived, as a real store does."""
        content = self.body()
        if len(content) == int(self.headers.get("Content-Length", 0)):
            self.server.faults.objects[self.path] = content

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response_only(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


class FaultServer:
    """A context manager. The server listens on loopback until the end of the block, over TLS if it has a context."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.reset()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = f"http{'s' * (tls is not None)}://127.0.0.1:{self._server.server_port}"

    def reset(self) -> None:
        """Remove the fault, the requests and the objects."""
        self.fault: Fault = stores
        self.never_continues = False
        self.on_reuse: Fault | None = None
        """What to do instead of an answer if a connection is reused; the fault sends no "100 Continue"."""
        self.reused = 0
        """Number of requests to which `on_reuse` was applied."""
        self.connections = 0
        """Number of accepted connections."""
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        """Headers of each request in `requests`."""
        self.objects: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, faults: FaultServer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.faults = faults

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing, because faults break connections on purpose."""


def stores(request: Request) -> None:
    request.store()
    request.answer(200, etag='"0"')


def answers(status: int, code: str = "", message: str = "no", **headers: str) -> Fault:
    """Return a fault that reads the body and answers with an error in the format of S3."""

    def fault(request: Request) -> None:
        request.body()
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode() if code else b""
        request.answer(status, body, **headers)

    return fault


def answers_text(status: int, text: str) -> Fault:
    """Return a fault that reads the body and answers with text, like a proxy that doesn't support S3."""

    def fault(request: Request) -> None:
        request.body()
        request.answer(status, text.encode(), content_type="text/html")

    return fault


def retries_at(status: int, *, seconds: int, clock: int) -> Fault:
    """Return a fault that answers with Retry-After as a date. The server's clock is `clock`, in seconds since 1970."""
    return answers(
        status,
        "SlowDown",
        retry_after=formatdate(clock + seconds, usegmt=True),
        date=formatdate(clock, usegmt=True),
    )


def refuses_early(status: int, code: str, *, after_bytes: int = 0, lingers: bool = False) -> Fault:
    """Return a fault that answers after a part of the body, and closes the connection without reading the rest.

    With `lingers`, it first drops what still arrives until the client closes, so that no RST overtakes the answer.
    """

    def fault(request: Request) -> None:
        request.rfile.read(after_bytes)
        request.close_connection = True
        request.answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), connection="close")
        with contextlib.suppress(OSError):
            while lingers and request.rfile.read(_PIECE_BYTES):
                """The client hasn't closed the connection."""

    return fault


def refuses_a_full_connection(request: Request) -> None:
    """Read nothing until no more bytes arrive, so that the client waits in `send`; then answer, and close by RST."""
    arrived = seen = 0
    while not arrived or arrived > seen:
        seen = arrived
        request.server.faults.closing.wait(0.3)
        arrived = struct.unpack("i", fcntl.ioctl(request.connection, termios.FIONREAD, bytes(4)))[0]
    refuses_early(403, "AccessDenied")(request)


def agrees_without_reading(request: Request) -> None:
    """Answer 200 without reading the body. With `never_continues`, answer before the client sends the body."""
    request.close_connection = True
    request.answer(200)


def loses_the_answer(request: Request) -> None:
    """Store the object and close the connection without an answer."""
    request.store()
    request.close_connection = True


def hangs(request: Request) -> None:
    """Send nothing until the server is closed."""
    request.server.faults.closing.wait()


def resets(request: Request) -> None:
    """Break the connection by RST after the first part of the body."""
    request.rfile.read(min(_PIECE_BYTES, int(request.headers["Content-Length"])))
    resets_at_once(request)


def closes(request: Request) -> None:
    """Close the connection by FIN without an answer."""
    request.connection.shutdown(socket.SHUT_RDWR)
    request.close_connection = True


def resets_at_once(request: Request) -> None:
    """Break the connection by RST."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
    request.close_connection = True


def stalls(started: threading.Event, resume: threading.Event) -> Fault:
    """Return a fault that reads one byte, sets `started`, waits for `resume`, reads the rest and answers 200."""

    def fault(request: Request) -> None:
        request.rfile.read(1)
        started.set()
        resume.wait()
        left = int(request.headers["Content-Length"]) - 1
        while left > 0 and (piece := request.rfile.read(min(left, _PIECE_BYTES))):
            left -= len(piece)
        request.close_connection = True
        if left == 0:
            request.answer(200, etag='"0"')

    return fault
