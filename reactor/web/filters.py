"""What a list is asked for: which rows, and from where on. Everything in an address may be wrong, and is said so."""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from attrs import asdict, frozen

from reactor.web.http_errors import bad, missing

UPLOADS: Final = ("dead", "failed", "uploading", "cancelled")
RUNS: Final = ("running", "failed", "completed", "pending")

_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_YEAR: Final = re.compile(r"(\d{4,6})(-.*)")
_LAST_YEAR: Final = 290_000
_SHOWN: Final = 40


@frozen(kw_only=True)
class Filter:
    """Which rows a list shows."""

    status: str
    user: UUID | None = None
    code: str | None = None

    def query(self, **more: str | None) -> str:
        """Return it as an address has it, without what isn't set."""
        words = {"status": self.status, "user": self.user, "code": self.code} | more
        return urlencode({name: str(value) for name, value in words.items() if value})

    def record(self) -> dict[str, Any]:
        """Return it as the audit log has it."""
        return {name: str(value) for name, value in asdict(self).items() if value}


def filter_of(query: Mapping[str, str], statuses: tuple[str, ...]) -> Filter:
    """Read a filter. Raises Refusal."""
    status = query.get("status") or statuses[0]
    if status not in statuses:
        raise bad(f"status must be one of {', '.join(statuses)}, not {shown(status)}")
    user, code = (query.get("user") or "").strip(), (query.get("code") or "").strip()
    if code and not _CODE.fullmatch(code):
        raise bad(f"code must be an error code such as STORAGE_REJECTED, not {shown(code)}")
    user_id = _uuid(user, "user must be a user's id (a UUID)") if user else None
    return Filter(status=status, user=user_id, code=code or None)


def row_id(text: str, kind: str) -> UUID:
    """Read the id of a row in a path. Raises Refusal."""
    try:
        return UUID(text)
    except ValueError:
        raise missing(f"{shown(text)} is no id of {kind}: ids are UUIDs") from None


def ids_of(texts: list[str], *, at_most: int) -> list[UUID]:
    """Read the ids that a form names. Raises Refusal."""
    if not texts:
        raise bad("ids must name at least one row")
    if len(texts) > at_most:
        raise bad(f"ids must name at most {at_most} rows at once")
    return list(dict.fromkeys(_uuid(text, "ids must be UUIDs") for text in texts))


def _uuid(text: str, rule: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise bad(f"{rule}, not {shown(text)}") from None


@frozen
class Place:
    """A place in a list's order: the moment that it is ordered by, as PostgreSQL's JSON writes it, and an id."""

    moment: str
    row_id: UUID

    def cursor(self) -> str:
        """Return it as one opaque word."""
        return base64.urlsafe_b64encode(f"{self.moment} {self.row_id.hex}".encode()).decode().rstrip("=")


FIRST: Final = Place("-infinity", UUID(int=0))
LAST: Final = Place("infinity", UUID(int=(1 << 128) - 1))


def place_of(cursor: str | None, otherwise: Place) -> Place:
    """Read a cursor. Raises Refusal for one that isn't ours."""
    if not cursor:
        return otherwise
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
        moment, _, hexed = text.partition(" ")
        _check_moment(moment)
        return Place(moment, UUID(hexed))
    except (ValueError, binascii.Error):  # UnicodeDecodeError is one
        raise bad("after isn't a place in this list: start again from its first page") from None


def _check_moment(text: str) -> None:
    """Raise ValueError unless PostgreSQL can read the moment: calendars of Python's end in the year 9999."""
    if text in {"infinity", "-infinity"}:
        return
    found = _YEAR.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= _LAST_YEAR:
        raise ValueError(text)
    leap = "2000" if int(found[1]) % 4 == 0 else "2001"
    datetime.fromisoformat(leap + found[2])  # the rest of it


def shown(text: str) -> str:
    """Return what was sent, quoted, short and harmless in any text."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:_SHOWN])
    return f"'{clean}{'…' if len(text) > _SHOWN else ''}'"
