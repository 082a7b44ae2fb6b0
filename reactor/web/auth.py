"""Permission to read and to make changes: the token, log-in sessions, and a limit on wrong tokens.

A browser presents the token once and gets a cookie that names a session in this process's memory. The cookie is random,
is sent only to this site, and no script can read it. A session ends with the process, after 12 hours, or at log-out. A
program sends the token with each request, as `Authorization: Bearer`. The limit on wrong tokens is per address, for
log-ins and programs together. It never refuses the right token, because a proxy's address is that of many people.
"""

import hmac
import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic

from attrs import define, frozen
from loguru import logger
from starlette.requests import Request

from reactor.web.http_errors import HttpError, bad_request, forbidden, unauthorised

SESSION_LIFETIME_S = 12 * 3600.0
MAX_SESSIONS = 256
"""A further log-in ends the oldest session."""

MAX_FAILURES = 5
FAILURE_WINDOW_S = 60.0
_MAX_ADDRESSES = 1024
_NAME_CHARS = 80


@define(kw_only=True)
class Session:
    """One log-in."""

    actor: str
    csrf: str
    """A secret that every form must contain; another site can't read it."""

    ends_at: float
    """Monotonic seconds."""

    notice: str = ""
    """The result of the last action; shown once."""


@frozen(kw_only=True)
class Operator:
    """The sender of a change."""

    actor: str
    remote_address: str
    session: Session | None
    """None for a program that sent the token."""


class Sessions:
    """The log-ins of this process."""

    def __init__(self, token: str | None, *, is_private: bool, port: int, now: Callable[[], float] = monotonic) -> None:
        """Without a `token`, every change is refused. If `is_private` (a loopback address), reading needs no token."""
        self._token = token
        self._is_private = is_private
        self._now = now
        self._sessions: dict[str, Session] = {}
        self._failures: dict[str, deque[float]] = {}
        self.has_token = token is not None
        # browsers send a cookie to every port of a host, and several reactors may run on one host
        self.cookie_name = f"reactor_session_{port}"

    # identify

    def find(self, request: Request) -> Session | None:
        """Return the session that the request's cookie names; None if it does not exist or has ended."""
        session = self._sessions.get(request.cookies.get(self.cookie_name, ""))
        return session if session is not None and session.ends_at > self._now() else None

    def may_read(self, request: Request) -> bool:
        """Return whether the request may read. Raises HttpError for a wrong token."""
        return self._is_private or self.find(request) is not None or self._has_bearer_token(request)

    def operator(self, request: Request) -> Operator:
        """Return the sender of a change. Raises HttpError if the sender may not make changes."""
        if self._token is None:
            raise forbidden("changes need a token: set REACTOR_HTTP_TOKEN and restart the reactor")
        require_same_site(request)
        if self._has_bearer_token(request):
            actor = parse_actor(request.headers.get("x-operator") or "a program")
            return Operator(actor=actor, remote_address=remote_address(request), session=None)
        session = self.find(request)
        if session is None:
            raise unauthorised("log in first, or send Authorization: Bearer with REACTOR_HTTP_TOKEN")
        return Operator(actor=session.actor, remote_address=remote_address(request), session=session)

    def _has_bearer_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            return False
        self.check_token(token.strip(), remote_address(request))
        return True

    # log in

    def check_token(self, token: str, address: str) -> None:
        """Raise HttpError if the token is wrong: 429 after 5 wrong tokens of the address within a minute, else 401."""
        if self._token is not None and hmac.compare_digest(token.encode(errors="replace"), self._token.encode()):
            self._failures.pop(address, None)
            return
        now = self._now()
        failures = self._failures.setdefault(address, deque(maxlen=MAX_FAILURES))
        if len(failures) == MAX_FAILURES and (wait_s := failures[0] + FAILURE_WINDOW_S - now) > 0:
            message = f"too many wrong tokens from {address}: wait {wait_s:.0f} s"
            raise HttpError(429, "NOT_ALLOWED", message, headers={"Retry-After": f"{wait_s:.0f}"})
        failures.append(now)
        if len(failures) == MAX_FAILURES:
            logger.warning("{} wrong tokens within a minute from {}", MAX_FAILURES, address)
        if len(self._failures) > _MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]
        raise unauthorised("the token is wrong: use the value of REACTOR_HTTP_TOKEN")

    def start(self, actor: str) -> str:
        """Start a session and return its cookie's value."""
        while len(self._sessions) >= MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        ends_at = self._now() + SESSION_LIFETIME_S
        self._sessions[cookie] = Session(actor=actor, csrf=secrets.token_urlsafe(24), ends_at=ends_at)
        return cookie

    def end(self, request: Request) -> None:
        """End the request's session."""
        self._sessions.pop(request.cookies.get(self.cookie_name, ""), None)


def require_same_site(request: Request) -> None:
    """Raise HttpError when a page of another site sent the request."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    is_own_origin = origin is None or origin.lower().partition("://")[2] == request.headers.get("host", "").lower()
    if site not in {"same-origin", "none"} or not is_own_origin:
        raise forbidden("a page of another site sent this request")


def require_csrf(session: Session, csrf: str) -> None:
    """Raise HttpError if `csrf`, the value from the form, is not the session's value."""
    if not hmac.compare_digest(csrf.encode(errors="replace"), session.csrf.encode()):
        raise forbidden("this form belongs to another log-in: reload the page")


def parse_actor(name: str) -> str:
    """Return an operator's name without spaces around it. Raises HttpError when it is empty, long or unprintable."""
    name = name.strip()
    if not 1 <= len(name) <= _NAME_CHARS or not name.isprintable():
        raise bad_request(f"give your name for the audit log, in 1 to {_NAME_CHARS} printable characters")
    return name


def is_encrypted(request: Request) -> bool:
    """Return whether the browser uses TLS, to this server or to a proxy that says so.

    Anyone can send the proxy's header, but it only makes the sender's own cookie stricter.
    """
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    return "https" in (request.url.scheme, forwarded)


def remote_address(request: Request) -> str:
    """Return the peer's address from the socket. Ignores headers, because a client can forge them."""
    return request.client.host if request.client is not None else "unknown"
