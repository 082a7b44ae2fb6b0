"""Parses filters, ids and cursors from requests. Raises HttpError for invalid values."""

import base64
import re
from calendar import isleap
from collections.abc import Mapping
from datetime import datetime
from reprlib import repr as quoted
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from attrs import asdict, frozen

from reactor.web.http_errors import HttpError, bad_request, not_found

UPLOAD_STATUSES: Final = ("dead", "failed", "uploading", "cancelled")
RUN_STATUSES: Final = ("running", "failed", "completed", "pending")

_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_YEAR: Final = re.compile(r"(\d{4,6})(-.*)")
_LAST_YEAR: Final = 290_000


@frozen(kw_only=True)
class Filter:
    """Selects the rows of a list. None selects all users, or all error codes."""

    status: str
    user: UUID | None = None
    code: str | None = None

    def record(self, **extra: str | None) -> dict[str, str]:
        """Return the filter for the audit log, without empty values."""
        return {name: str(value) for name, value in (asdict(self) | extra).items() if value}

    def query(self, **extra: str | None) -> str:
        """Return the filter as the query string of a URL."""
        return urlencode(self.record(**extra))


def parse_filter(query: Mapping[str, str], statuses: tuple[str, ...]) -> Filter:
    """Parse a filter; the status defaults to the first of `statuses`. Raises HttpError."""
    status = query.get("status") or statuses[0]
    if status not in statuses:
        raise bad_request(f"status must be one of {', '.join(statuses)}, not {quoted(status)}")
    user, code = (query.get("user") or "").strip(), (query.get("code") or "").strip()
    if code and not _CODE.fullmatch(code):
        raise bad_request(f"code must be an error code such as STORAGE_REJECTED, not {quoted(code)}")
    user_id = _parse_uuid(user, bad_request(f"user must be a user's id (a UUID), not {quoted(user)}")) if user else None
    return Filter(status=status, user=user_id, code=code or None)


def parse_path_id(text: str, kind: str) -> UUID:
    """Parse a row's id in a path. Raises HttpError."""
    return _parse_uuid(text, not_found(f"{quoted(text)} is not the id of {kind}: ids are UUIDs"))


def parse_form_ids(texts: list[str], *, limit: int) -> list[UUID]:
    """Parse the ids of a form, without duplicates. Raises HttpError."""
    if not texts:
        raise bad_request("ids must name at least one row")
    if len(texts) > limit:
        raise bad_request(f"ids must name at most {limit} rows at once")
    ids = (_parse_uuid(text, bad_request(f"ids must be UUIDs, not {quoted(text)}")) for text in texts)
    return list(dict.fromkeys(ids))


def _parse_uuid(text: str, error: HttpError) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise error from None


@frozen
class Cursor:
    """A position in a list: a row's id, and the time by which the list is ordered, in PostgreSQL's JSON format."""

    moment: str
    row_id: UUID

    def encode(self) -> str:
        """Return the cursor as an opaque string for a URL."""
        return base64.urlsafe_b64encode(f"{self.moment} {self.row_id.hex}".encode()).decode().rstrip("=")


LOWEST: Final = Cursor("-infinity", UUID(int=0))
HIGHEST: Final = Cursor("infinity", UUID(int=(1 << 128) - 1))


def parse_cursor(text: str | None, default: Cursor) -> Cursor:
    """Parse a result of `Cursor.encode`. Return `default` if `text` is empty or None. Raises HttpError."""
    if not text:
        return default
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
        moment, _, row_id = decoded.partition(" ")
        _check_moment(moment)
        return Cursor(moment, UUID(row_id))
    except ValueError:
        raise bad_request("after is not a position in this list: start again from its first page") from None


def _check_moment(text: str) -> None:
    """Raise ValueError if PostgreSQL can't read the time.

    Python parses the time with another year, because Python's calendar ends in the year 9999.
    """
    if text in {"infinity", "-infinity"}:
        return
    match = _YEAR.fullmatch(text)
    if match is None or not 1 <= int(match[1]) <= _LAST_YEAR:
        raise ValueError(text)
    year = "2000" if isleap(int(match[1])) else "2001"  # 2000 is a leap year
    datetime.fromisoformat(year + match[2])
