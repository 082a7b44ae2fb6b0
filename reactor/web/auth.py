"""Who may read, and who may act: the token, log-ins that rest on it, and how often it may be guessed.

A browser presents the token once, and gets a cookie that names a session in this process's memory: random, sent by the
browser to this site alone and shown to no script. It ends with the process, after half a day, or by logging out. A
program presents the token itself, as `Authorization: Bearer`. How often either may be wrong is limited, by address.
"""

import hmac
import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic

from attrs import define, frozen
from starlette.requests import Request

from reactor.web.http_errors import Refusal, bad, forbidden

LIFETIME_S = 12 * 3600.0
SESSIONS = 256
"""How many may be logged in; the oldest log-in gives way."""

FAILURES = 5
FAILURES_WITHIN_S = 60.0
_ADDRESSES = 1024
_NAME_CHARS = 80
_TOO_MANY = 429


@define(kw_only=True)
class Session:
    """One log-in."""

    actor: str
    csrf: str
    """What every form must send back: another site can't read it."""

    ends_at: float
    notice: str = ""
    """What the last action came to; shown once."""


@frozen(kw_only=True)
class Operator:
    """Who acts."""

    actor: str
    remote_address: str
    session: Session | None
    """None for a program, which has presented the token itself."""


class Sessions:
    """The log-ins of this process."""

    def __init__(self, token: str | None, *, is_private: bool, now: Callable[[], float] = monotonic) -> None:
        """`is_private`: who is on this machine may read, so that no token is needed for that."""
        self._token = token
        self._is_private = is_private
        self._now = now
        self._sessions: dict[str, Session] = {}
        self._failures: dict[str, deque[float]] = {}
        self.cookie = "reactor_session"
        """The cookie's name; told apart by port, for cookies aren't."""

    @property
    def is_armed(self) -> bool:
        """Whether anybody may act at all."""
        return self._token is not None

    # who asks

    def find(self, request: Request) -> Session | None:
        """Return the session that the request's cookie names."""
        session = self._sessions.get(request.cookies.get(self.cookie, ""))
        return session if session is not None and session.ends_at > self._now() else None

    def may_read(self, request: Request) -> bool:
        """Whether the request may read. Raises Refusal for a wrong token."""
        return self._is_private or self.find(request) is not None or self._bears_token(request)

    def operator(self, request: Request) -> Operator:
        """Return who acts. Raises Refusal for anybody else."""
        if self._token is None:
            raise forbidden("nothing is changed from here until REACTOR_HTTP_TOKEN is set: set it, and start anew")
        demand_same_site(request)
        if self._bears_token(request):
            actor = actor_of(request.headers.get("x-operator") or "a program")
            return Operator(actor=actor, remote_address=address_of(request), session=None)
        session = self.find(request)
        if session is None:
            raise forbidden("log in first, or send Authorization: Bearer with REACTOR_HTTP_TOKEN", status=401)
        return Operator(actor=session.actor, remote_address=address_of(request), session=session)

    def _bears_token(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            return False
        self.check(token.strip(), address_of(request))
        return True

    # log in

    def check(self, token: str, address: str) -> None:
        """Raise Refusal unless it is the token; guesses are counted by address."""
        now = self._now()
        failures = self._failures.setdefault(address, deque(maxlen=FAILURES))
        if len(failures) == FAILURES and (wait_s := failures[0] + FAILURES_WITHIN_S - now) > 0:
            words = f"too many wrong tokens from {address}: wait {wait_s:.0f} s"
            raise Refusal(_TOO_MANY, "NOT_ALLOWED", words, headers={"Retry-After": f"{wait_s:.0f}"})
        if self._token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
            failures.append(now)
            if len(self._failures) > _ADDRESSES:
                del self._failures[next(iter(self._failures))]
            raise forbidden("that isn't the token that REACTOR_HTTP_TOKEN holds", status=401)
        self._failures.pop(address, None)

    def begin(self, actor: str) -> str:
        """Begin a session and return its cookie's value."""
        while len(self._sessions) >= SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        value = secrets.token_urlsafe(32)
        self._sessions[value] = Session(actor=actor, csrf=secrets.token_urlsafe(24), ends_at=self._now() + LIFETIME_S)
        return value

    def end(self, request: Request) -> None:
        """End the request's session."""
        self._sessions.pop(request.cookies.get(self.cookie, ""), None)


def demand_same_site(request: Request) -> None:
    """Raise Refusal when a page of another site has sent this."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    is_ours = origin is None or origin.lower().partition("://")[2] == request.headers.get("host", "").lower()
    if site not in {"same-origin", "none"} or not is_ours:
        raise forbidden("this was sent by a page of another site")


def demand_csrf(session: Session, sent: str) -> None:
    """Raise Refusal unless the form is one that this session was given."""
    if not hmac.compare_digest(sent.encode(), session.csrf.encode()):
        raise forbidden("this form isn't of your log-in: load the page again")


def actor_of(name: str) -> str:
    """Return an operator's name. Raises Refusal for what isn't one."""
    name = name.strip()
    if not 1 <= len(name) <= _NAME_CHARS or not name.isprintable():
        raise bad(f"say who you are, in 1 to {_NAME_CHARS} printable characters: the audit log names you")
    return name


def address_of(request: Request) -> str:
    """Return where a request comes from, as this machine sees it: headers may say anything."""
    return request.client.host if request.client is not None else "unknown"
