"""What the page answers when it won't: a status, a public code, and a sentence that says what to do."""

from collections.abc import Mapping
from types import MappingProxyType

from starlette.requests import Request


class Refusal(Exception):
    """An answer other than the one that was asked for."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def bad(message: str) -> Refusal:
    """Return the answer to an argument that isn't valid."""
    return Refusal(400, "INVALID_ARGUMENT", message)


def missing(message: str) -> Refusal:
    """Return the answer to what isn't there."""
    return Refusal(404, "NOT_FOUND", message)


def forbidden(message: str, *, status: int = 403) -> Refusal:
    """Return the answer to who may not."""
    return Refusal(status, "NOT_ALLOWED", message)


def is_program(request: Request) -> bool:
    """Whether the answer is read by a program, which wants JSON."""
    accepted = request.headers.get("accept", "")
    return (
        request.url.path.startswith(("/api/", "/live"))
        or "authorization" in request.headers
        or ("json" in accepted and "html" not in accepted)
    )
