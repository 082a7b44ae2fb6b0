"""What browsers and programs post: small forms, sent without delay, of this site."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from anyio import move_on_after
from starlette.requests import ClientDisconnect, Request

from reactor.web.http_errors import Refusal, bad

BODY_BYTES: Final = 64 * 1024
BODY_WITHIN_S: Final = 10.0
_FIELDS: Final = 600
_FORM: Final = "application/x-www-form-urlencoded"
_CLOSING: Final = {"Connection": "close"}


class Form(dict[str, str]):
    """What was posted: the last value of each name, and all of `ids`."""

    ids: list[str]


def back_of(form: Mapping[str, str]) -> str:
    """Return where the form was, on this site and nowhere else."""
    back = form.get("back", "/")
    parts = urlsplit(back) if back.isascii() and back.isprintable() and "\\" not in back else None
    is_ours = parts is not None and not parts.scheme and not parts.netloc and back.startswith("/") and back[1:2] != "/"
    return back if is_ours else "/"


async def read(request: Request) -> Form:
    """Read a form: a small one, sent without delay. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in {"", _FORM}:
        raise Refusal(415, "INVALID_ARGUMENT", f"send a form, as {_FORM}")
    body = bytearray()
    with move_on_after(BODY_WITHIN_S) as patience:
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    words = f"send at most {BODY_BYTES // 1024} KiB"
                    raise Refusal(413, "INVALID_ARGUMENT", words, headers=_CLOSING)
        except ClientDisconnect as gone:
            raise bad("the form ended too soon") from gone
    if patience.cancelled_caught:
        words = f"the form wasn't all there within {BODY_WITHIN_S:.0f} s"
        raise Refusal(408, "INVALID_ARGUMENT", words, headers=_CLOSING)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        raise bad(f"send a form in UTF-8, of at most {_FIELDS} fields") from None
    form = Form(pairs)
    form.ids = [value for name, value in pairs if name == "ids"]
    return form
