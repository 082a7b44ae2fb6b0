"""The arguments of a call, checked before they leave: what PostgreSQL couldn't even parse gets an answer as well.

They are typed `object`, for callers whose code isn't type-checked.
"""

import json
import math
from uuid import UUID

from reactor.core.errors import InvalidArgument


def as_id(name: str, value: object) -> UUID:
    """Return a UUID. Raises InvalidArgument."""
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise _invalid(name, "must be a UUID") from None


def as_text(name: str, value: object) -> str | None:
    """Return a text that PostgreSQL can keep: no NUL, no half of a surrogate pair. Raises InvalidArgument."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _invalid(name, "must be a string")
    if "\0" in value or not _is_encodable(value):
        raise _invalid(name, "must be text: it has a NUL, or half of a surrogate pair")
    return value


def as_whole(name: str, value: object, *, at_least: int) -> int:
    """Return a whole number. Raises InvalidArgument."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise _invalid(name, f"must be a whole number of at least {at_least}")
    return value


def as_seconds(name: str, value: object) -> float:
    """Return a number of seconds that is more than 0 and at most 30 days. Raises InvalidArgument."""
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 30 * 86_400:
        raise _invalid(name, "must be more than 0 seconds and at most 30 days")
    return value


def as_json(name: str, value: object) -> str:
    """Return JSON text that PostgreSQL can keep. Raises InvalidArgument."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise _invalid(name, "must be what JSON can say") from None
    if "\\u0000" in text or not _is_encodable(text):
        raise _invalid(name, "must be JSON of text: it has a NUL, or half of a surrogate pair")
    return text


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{name} {problem}", details={"argument": name})
