"""A client of the reactor's pages without a browser. It follows no redirects and keeps only the log-in cookie."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

from anyio import to_thread
from attrs import define, field, frozen

TOKEN = "a-token-of-the-tests"  # noqa: S105 - the token of a throw-away server
_TIMEOUT_S = 20.0


@frozen(kw_only=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    text: str
    cookies: list[str]


@define
class Visitor:
    """Sends requests to one server."""

    url: str
    cookie: str = ""
    headers: dict[str, str] = field(factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.send("GET", path, headers=headers)

    async def post(self, path: str, form: dict[str, Any], **headers: str) -> Answer:
        """Post a form. A `_` in a header's name is sent as a dash."""
        return await self.send("POST", path, urlencode(form, doseq=True), headers=headers)

    async def send(
        self, method: str, path: str, body: str | bytes | None = None, *, headers: dict[str, str] | None = None
    ) -> Answer:
        sent_headers = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if body is not None:
            sent_headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
        if self.cookie:
            sent_headers["Cookie"] = self.cookie
        return await to_thread.run_sync(self._send, method, path, body, self.headers | sent_headers)

    def _send(self, method: str, path: str, body: str | bytes | None, headers: dict[str, str]) -> Answer:
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            pairs = [(name.lower(), value) for name, value in answer.getheaders()]
            cookies = [value for name, value in pairs if name == "set-cookie"]
            return Answer(status=answer.status, headers=dict(pairs), text=answer.read().decode(), cookies=cookies)
        finally:
            connection.close()

    async def log_in(self, *, actor: str = "ana", token: str = TOKEN) -> Answer:
        """Log in and keep the cookie."""
        answer = await self.post("/login", {"actor": actor, "token": token})
        if answer.cookies:
            self.cookie = answer.cookies[0].partition(";")[0]
        return answer

    async def csrf(self) -> str:
        """Return the CSRF value that the page's forms contain after this log-in."""
        match = re.search(r'name="csrf" value="([^"]+)"', (await self.get("/audit")).text)
        assert match is not None
        return match[1]

    async def act(self, action: str, **form: Any) -> Answer:
        """Post an action's form, as the page does."""
        return await self.post(f"/do/{action}", {"csrf": await self.csrf()} | form)


def program(url: str) -> Visitor:
    """Return a visitor that sends the token with every request."""
    return Visitor(url, headers={"Authorization": f"Bearer {TOKEN}"})


@contextmanager
def stream_of(url: str, *, cookie: str = "") -> Iterator[Iterator[bytes]]:
    """Open the live stream and yield its lines. Blocks."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=_TIMEOUT_S) as conn:
        cookie_header = f"Cookie: {cookie}\r\n" if cookie else ""
        conn.sendall(f"GET /live HTTP/1.1\r\nHost: localhost\r\n{cookie_header}\r\n".encode())
        with conn.makefile("rb") as lines:
            yield iter(lines)
