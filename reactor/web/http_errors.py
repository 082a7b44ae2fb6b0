"""Error responses: each has an HTTP status, a public error code, and a message that says what to do."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse


class HttpError(HTTPException):
    """An error response. Any code that handles a request may raise it; an exception handler renders it."""

    def __init__(self, status_code: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        """`code` is a key of CATALOGUE in reactor/core/error_codes.py."""
        super().__init__(status_code, detail=message, headers=headers)
        self.code = code


bad_request: Final = partial(HttpError, 400, "INVALID_ARGUMENT")
unauthorised: Final = partial(HttpError, 401, "NOT_ALLOWED")
"""For a request without a valid token or session."""
forbidden: Final = partial(HttpError, 403, "NOT_ALLOWED")
"""For a request that would be refused even with a valid token or session."""
not_found: Final = partial(HttpError, 404, "NOT_FOUND")


def error_json(status_code: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return an error as JSON. `error` is a public error code, or "internal error"."""
    return JSONResponse({"error": error, "message": message}, status_code=status_code, headers=headers)


def wants_json(request: Request) -> bool:
    """Return whether to answer in JSON, because a program and not a person will read the answer."""
    accepted = request.headers.get("accept", "")
    return (
        request.url.path.startswith(("/api/", "/live"))
        or "authorization" in request.headers
        or ("json" in accepted and "html" not in accepted)
    )
