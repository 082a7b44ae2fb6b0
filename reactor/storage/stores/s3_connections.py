"""HTTP connections to an S3 server, for boto3.

A connection from the pool may be dead: the server or a load balancer has closed or forgotten it. If a reused connection
dies before the first byte of an answer, the request is sent again, once, on a new connection. A fresh connection's
failure is never repeated here. While a body is sent, an early answer (such as 403 or 413) ends the reading of the body.

urllib3's and http.client's connections are extended instead of botocore's, which reads a body to its end after an early
answer.
"""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException, RemoteDisconnected
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from botocore.awsrequest import AWSHTTPResponse
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import wait_for_read

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SILENCE_S = 5.0
"""How long a reused connection may be silent, without a byte of an answer, before it counts as dead."""

_IDLE_S = 20.0
"""A connection that was idle for longer isn't reused. Load balancers forget idle connections after 60 s or more."""

_CONTINUE_S = 1.0
"""How long to wait for "100 Continue" before the body is sent nevertheless. The same as botocore's."""

_CONTINUE_AGAIN_S = 2.0
"""How long to wait for "100 Continue" on a connection on which the server has sent it before."""

_CONTINUE = 100

_MAX_LINE_BYTES = 65536


@runtime_checkable
class RestartableBody(Protocol):
    """A body that a connection can stop reading, and read again from its start."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; b"" at the end, and after `stop`."""

    def stop(self) -> None:
        """End the reading: the answer has arrived."""

    def restart(self) -> None:
        """Continue at the first byte."""


class _DeadConnectionError(Exception):
    """A reused connection died before the first byte of an answer. No class that urllib3 would translate."""


class _EarlyAnswers(HTTPConnection):
    """A connection that waits for "100 Continue", and checks for an early answer before it sends each part of a body.

    Invariant: a connection whose request wasn't sent completely is never reused.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plain_response_class = self.response_class
        self._answers = 0
        """Number of answers since the connection was opened."""
        self._has_continued = False
        """Whether the server has answered "100 Continue" since the connection was opened."""
        self._forget_request()

    def _forget_request(self) -> None:
        self._body: object = None
        self._is_reused = False
        self._is_sending_body = False
        self._is_sent = False
        """Whether the whole request was sent."""
        self._expects_continue = False
        self._has_begun = False
        """Whether a byte of an answer, or of "100 Continue", has arrived: the connection isn't dead."""
        self._is_answered = False
        """Whether the status line of the final answer was read."""
        self._is_spoiled = False
        self._used_at = monotonic()
        self.response_class = self._plain_response_class

    @property
    def is_connected(self) -> bool:
        """Whether the pool may use this connection again."""
        return not self._is_spoiled and monotonic() - self._used_at < _IDLE_S and super().is_connected

    def close(self) -> None:
        super().close()
        self._answers = 0
        self._has_continued = False
        self._forget_request()

    def request(
        self, method: str, url: str, body: Any = None, headers: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self._forget_request()
        self._body, self._is_reused = body, self._answers > 0
        self._expects_continue = (headers or {}).get("Expect") in {"100-continue", b"100-continue"}
        try:
            super().request(method, url, body, headers, **options)
        except OSError as exc:
            raise self._error_for(exc) from exc
        self._is_sent = True

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        super().endheaders(message_body, encode_chunked=encode_chunked)
        if self._expects_continue:
            # a server that has continued before will do so again, unless the connection is dead
            must_continue = self._is_reused and self._has_continued
            self._read_status(wait_s=_CONTINUE_AGAIN_S if must_continue else _CONTINUE_S)
            if must_continue and not self._has_begun:
                raise _DeadConnectionError
        self._is_sending_body = True

    def send(self, data: Any) -> None:
        if self._is_sending_body and not self._is_answered:
            self._read_status(wait_s=0)
        if self._is_answered:
            return
        try:
            super().send(data)
        except (BrokenPipeError, ConnectionResetError):
            self._read_status(wait_s=0)  # a server that refuses early also closes: its answer may have arrived before
            raise  # urllib3 ignores this, and calls `getresponse`

    def getresponse(self) -> Any:
        if self._is_reused and self.sock is not None:
            timeout_s = SILENCE_S if self.timeout is None else self.timeout
            try:
                while not self._is_answered:
                    if not self._read_status(wait_s=timeout_s if self._has_begun else min(SILENCE_S, timeout_s)):
                        raise TimeoutError
            except OSError as exc:
                raise self._error_for(exc) from exc
        self._answers += 1  # `super` closes the connection, and sets this to 0, if the server will close it
        response = super().getresponse()
        self._used_at = monotonic()
        return response

    def _error_for(self, exc: Exception) -> Exception:
        is_dead = self._is_reused and not self._has_begun
        return _DeadConnectionError() if is_dead else exc

    def _read_status(self, *, wait_s: float) -> bool:
        """Read the status line of an answer, or "100 Continue". Return False if none arrives within `wait_s`.

        Raises OSError if the server has closed the connection.
        """
        first = self._first_byte(wait_s)
        if first is None:
            return False
        if not first:
            raise RemoteDisconnected("the server closed the connection without an answer")
        self._has_begun = True
        with self.sock.makefile("rb", 0) as stream:
            line = first + stream.readline(_MAX_LINE_BYTES)
            version, status, reason = [*line.decode("latin-1").rstrip("\r\n").split(" ", 2), "", ""][:3]
            if not version.startswith("HTTP/") or not status.isdecimal():
                raise HTTPException("the server's answer isn't HTTP")
            if int(status) == _CONTINUE:
                self._has_continued = True
                while stream.readline(_MAX_LINE_BYTES) not in {b"\r\n", b"\n", b""}:
                    """Skip the headers of "100 Continue", which a few proxies send."""
                return True
        answer: Any = partial(AWSHTTPResponse, status_tuple=(version, int(status), reason))
        self.response_class = answer
        self._is_answered = True
        if not self._is_sent:
            self._is_spoiled = True  # the server may still wait for the rest of the body
            if isinstance(self._body, RestartableBody):
                self._body.stop()
        return True

    def _first_byte(self, wait_s: float) -> bytes | None:
        """Return the first byte of an answer; b"" if the server has closed; None if nothing arrives in time."""
        deadline = monotonic() + wait_s
        while (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending()) or wait_for_read(
            self.sock, max(0.0, deadline - monotonic())
        ):
            timeout_s = self.sock.gettimeout()
            self.sock.settimeout(0)
            try:
                return self.sock.recv(1)
            except (ssl.SSLWantReadError, BlockingIOError):
                pass  # a TLS record without data, such as a session ticket
            finally:
                self.sock.settimeout(timeout_s)
        return None


class _Connection(_EarlyAnswers):
    """A connection over plain HTTP."""


class _TlsConnection(_EarlyAnswers, HTTPSConnection):
    """A connection over TLS."""


class _RepeatOnFreshConnection(HTTPConnectionPool):
    """A pool that repeats a request once if the reused connection was dead."""

    def urlopen(self, method: str, url: str, body: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().urlopen(method, url, body, *args, **kwargs)
        except _DeadConnectionError:
            # the idle connections were probably dropped together with this one
            with suppress(Empty):
                while self.pool is not None:
                    if (idle := self.pool.get(block=False)) is not None:
                        idle.close()
            if isinstance(body, RestartableBody):
                body.restart()
            return super().urlopen(method, url, body, *args, **kwargs)


class _Pool(_RepeatOnFreshConnection):
    ConnectionCls = _Connection


class _TlsPool(_RepeatOnFreshConnection, HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def use_in(client: "S3Client") -> None:
    """Make a new client use these connections. botocore has no public setting for this."""
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # noqa: SLF001 - see above
    pools = {"http": _Pool, "https": _TlsPool}
    session._pool_classes_by_scheme = pools  # noqa: SLF001 - for proxies
    session._manager.pool_classes_by_scheme = pools  # noqa: SLF001
