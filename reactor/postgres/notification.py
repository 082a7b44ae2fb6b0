"""Decodes the text of a notification into hints, or rejects the text. Any role can forge a notification.

The reactor's triggers (schema/functions/lib_hint.sql) send `{"v": 1, "at": ms, "rows": [[id, tenant, due], …]}`, or
`"rescan": true` instead of `rows`. A row of a run may have a fourth item, the age of its last heartbeat. Any other text
is rejected. A forged row costs one indexed look-up, which finds nothing to do; a forged rescan costs one pass
of reconciliation.
"""

import json
import re
from typing import Any, NamedTuple
from uuid import UUID

from attrs import frozen

from reactor.core.errors import InvalidArgument

MAX_BYTES = 8000
_MAX_ROWS = 500
_MAX_MS = 1 << 53
_ID = re.compile("[0-9a-f]{32}")


class BadPayload(InvalidArgument):
    """The text isn't a payload of the reactor. The message says why, without a part of the text."""


class Hint(NamedTuple):
    """One row in a notification. Times are in milliseconds since 1970 by the database's clock."""

    row_id: UUID
    tenant: int
    due_ms: int | None
    """When the row is due; None if it needs no attention, or if its due time depends only on `heartbeat_ms`."""

    heartbeat_ms: int | None
    """The last heartbeat of a run without a heartbeat timeout; else None. The default timeout runs from then."""


HINT_ROUNDING_S = 0.001
"""The due time in a hint is rounded up: it is at most this much later than the due time of the row."""


@frozen(kw_only=True)
class Payload:
    """A decoded notification."""

    hints: tuple[Hint, ...] = ()
    rescan: bool = False


def decode(text: str) -> Payload:
    """Return the payload in the text. Raises BadPayload for anything that the reactor's triggers don't send."""
    if len(text) > MAX_BYTES:
        raise BadPayload("longer than a notification can be")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPayload("not JSON") from error
    if not isinstance(value, dict) or value.get("v") != 1:
        raise BadPayload("not a version 1 payload")
    if value.get("rescan") is True:
        return Payload(rescan=True)
    at, rows = value.get("at"), value.get("rows")
    if type(at) is not int or not _is_ms(at) or not isinstance(rows, list) or not 1 <= len(rows) <= _MAX_ROWS:
        raise BadPayload("no rows")
    return Payload(hints=tuple(_hint(row, at) for row in rows))


def _hint(row: Any, at: int) -> Hint:
    if not isinstance(row, list) or not 3 <= len(row) <= 4:  # noqa: PLR2004  # see the module docstring
        raise BadPayload("a row that isn't [id, tenant, due]")
    row_id, tenant, due, heartbeat_age = row if len(row) > 3 else (*row, None)  # noqa: PLR2004
    if type(row_id) is not str or _ID.fullmatch(row_id) is None:
        raise BadPayload("a row without an id")
    if type(tenant) is not int or not -(2**31) <= tenant < 2**31:
        raise BadPayload("a row without a tenant")
    if not all(value is None or _is_ms(value) for value in (due, heartbeat_age)):
        raise BadPayload("a row with an impossible time")
    heartbeat_ms = None if heartbeat_age is None else at - heartbeat_age
    return Hint(UUID(hex=row_id), tenant, None if due is None else at + due, heartbeat_ms)


def _is_ms(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MAX_MS
