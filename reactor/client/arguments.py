"""Validates the arguments of a call before they are sent. Also refuses values that PostgreSQL can't parse or store.

Each function takes the argument's name and its value, and raises InvalidArgument with the name for an invalid value.
The value has the type `object`, because callers may not type-check their code.
"""

import json
import math
import re
import sys
from importlib import import_module
from uuid import UUID

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from reactor.core.connection_string import RULE, misreads_password
from reactor.core.errors import InvalidArgument

_LONGEST_S = 30 * 86_400
_SURROGATE = re.compile("[\ud800-\udfff]")


def as_id(name: str, value: object) -> UUID:
    """Return the value as a UUID."""
    try:
        return value if isinstance(value, UUID) else UUID(str(value))
    except ValueError:
        raise _invalid(name, "must be a UUID") from None


def as_connection_string(name: str, value: object) -> str:
    """Return a connection string that libpq reads as it was meant; see reactor/core/connection_string.py."""
    try:
        is_misread = misreads_password(str(value), conninfo_to_dict(str(value)))
    except (ProgrammingError, UnicodeError):
        # `from None`, because libpq's message quotes the part that it can't parse, which may be the password
        raise _invalid(name, "must be a postgresql:// URL, or key=value pairs as libpq reads them") from None
    if is_misread:
        raise _invalid(name, f"must be {RULE}")
    return str(value)


def as_text(name: str, value: object) -> str | None:
    """Return text that PostgreSQL can store: without NUL and unpaired surrogates. None stays None."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _invalid(name, "must be a string")
    if "\0" in value or _SURROGATE.search(value):
        raise _invalid(name, "must be text without NUL and without unpaired surrogates")
    return value


def as_integer(name: str, value: object, *, at_least: int) -> int:
    """Return an integer >= `at_least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise _invalid(name, f"must be an integer of at least {at_least}")
    return value


def as_seconds(name: str, value: object) -> float:
    """Return a number of seconds, more than 0 and at most 30 days."""
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= _LONGEST_S:
        raise _invalid(name, "must be more than 0 seconds and at most 30 days")
    return value


def as_json_text(name: str, value: object) -> str:
    """Return the value as JSON text that PostgreSQL can store."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise _invalid(name, "must be a value that JSON can represent") from None
    if "\\u0000" in text or _SURROGATE.search(text):
        raise _invalid(name, "must be JSON without NUL and without unpaired surrogates")
    return text


def as_traceparent(name: str, value: object) -> str | None:
    """Return a W3C trace context. None becomes the trace context of the current span; None outside any span."""
    # a span can only exist if the app has imported opentelemetry.trace; without that, its import would cost 60 ms
    if value or "opentelemetry.trace" not in sys.modules:
        return as_text(name, value)
    carrier: dict[str, str] = {}
    import_module("opentelemetry.propagate").inject(carrier)
    return carrier.get("traceparent")


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{name} {problem}", details={"argument": name})
