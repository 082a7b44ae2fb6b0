"""Reads posted forms, with limits on their size, number of fields and time to arrive."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from anyio import move_on_after
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request

from reactor.web.http_errors import HttpError, bad_request

MAX_BODY_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
_MAX_FIELDS: Final = 600
_CONTENT_TYPE: Final = "application/x-www-form-urlencoded"
_CLOSE: Final = {"Connection": "close"}

Form = QueryParams
"""Posted fields. `form[name]` is the last value of a field, `form.getlist(name)` has all its values."""


def return_path(form: Mapping[str, str]) -> str:
    """Return the form's `back` path if it stays on this site, else "/"."""
    back = form.get("back", "/")
    parts = urlsplit(back) if back.isascii() and back.isprintable() and "\\" not in back else None
    is_own = parts is not None and not parts.scheme and not parts.netloc and back.startswith("/") and back[1:2] != "/"
    return back if is_own else "/"


async def read(request: Request) -> Form:
    """Read the request's form. Raises HttpError."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in {"", _CONTENT_TYPE}:
        raise HttpError(415, "INVALID_ARGUMENT", f"send a form, as {_CONTENT_TYPE}")
    body = bytearray()
    with move_on_after(BODY_TIMEOUT_S) as timeout:
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    message = f"send at most {MAX_BODY_BYTES // 1024} KiB"
                    raise HttpError(413, "INVALID_ARGUMENT", message, headers=_CLOSE)
        except ClientDisconnect as disconnect:
            raise bad_request("the connection ended before the form was complete") from disconnect
    if timeout.cancelled_caught:
        message = f"the form was not complete within {BODY_TIMEOUT_S:.0f} s"
        raise HttpError(408, "INVALID_ARGUMENT", message, headers=_CLOSE)
    try:
        return Form(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise bad_request(f"send a form in UTF-8, of at most {_MAX_FIELDS} fields") from None
