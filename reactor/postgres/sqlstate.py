"""Classifies the errors of psycopg by SQLSTATE. Every error of a call to the database is read here, and nowhere else.

| SQLSTATE | meaning | exception |
|---|---|---|
| 08, 53, 57, 58, 72, F0, XX, 55006, none | the server is away, or out of resources | DatabaseUnavailable |
| 40001, 40003, 40P01, 55P03, 57014 | the server is busy: a lock, a time limit | DatabaseUnavailable, `is_busy` |
| 25, 26, 28, 3D, 0A000 | the connection can't be used: read-only, a stale plan, a login | DatabaseUnavailable |
| 42501, 42703, 42704, 42883, 42P01, 3F000 | a grant or a migration is missing | DatabaseForbidden |
| every other | these rows are refused | DatabaseRefused |

If the app's own trigger or function raises the error, the rows are refused, whatever the SQLSTATE says: an app may
raise any. Only what says "busy" is taken at its word. Source of the classes: PostgreSQL's
documentation, appendix A.
"""

import re
import struct
from typing import Final

import psycopg

from reactor.core.errors import (
    TAKES_NO_WRITES,
    DatabaseFailure,
    DatabaseForbidden,
    DatabaseRefused,
    DatabaseUnavailable,
)

_ABOUT_VALUES = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
_READ_ONLY = "25006"
_BUSY = frozenset({"40001", "40003", "40P01", "55P03", "57014"})
_PASSING = frozenset({"55006"})
_PASSING_CLASSES = frozenset({"08", "25", "26", "28", "3D", "53", "57", "58", "72", "F0", "XX"})
_FORBIDDEN = frozenset({"3F000", "42501", "42703", "42704", "42883", "42P01"})
_STALE_PLAN = "0A000"
_UNUSABLE_CLASSES = frozenset({"08", "25", "26", "XX"})
_UNUSABLE = frozenset({_STALE_PLAN, "57P01", "57P02", "57P03", "57P04", "57P05"})

_LONGEST_MESSAGE = 500
_DATA_EXCEPTION = "22"
_VALUE = re.compile(r':? ".*"', re.DOTALL)
"""The value that a data exception quotes, such as `invalid input syntax for type integer: "…"`."""

_PUBLIC_API = frozenset(
    {
        "begin_interpretation",
        "complete_interpretation",
        "complete_upload",
        "fail_interpretation",
        "fail_upload",
        "get_usage",
        "heartbeat_interpretation",
        "heartbeat_interpretations",
        "recalculate_usage",
        "reserve_upload",
        "set_plan",
    }
)
"""The reactor's functions in the schema public; see schema/functions/api_*.sql."""

CALL_ERRORS: Final = (psycopg.Error, ValueError, OverflowError, RecursionError, struct.error)
"""What a call of psycopg raises, also when a value can't be sent or read."""

_FUNCTION = re.compile(r'PL/pgSQL[^("]*?([\w$]+)\.([\w$]+)\(')
"""A function in the context of an error. The words around it depend on lc_messages."""


class ServerReadOnly(psycopg.OperationalError):
    """The new connection leads to a server that takes no writes."""

    sqlstate = _READ_ONLY


def database_failure(error: Exception) -> DatabaseFailure:
    """Return the exception for an error that psycopg raised. Its message is one line without values of rows."""
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    message = message_of(error)
    if sqlstate is None:
        # a value that can't be sent or read, such as text with NUL, is the fault of its row
        is_away = isinstance(error, psycopg.Error) and not isinstance(error, _ABOUT_VALUES)
        return DatabaseUnavailable(message) if is_away else DatabaseRefused(message)
    if sqlstate in _BUSY:
        return DatabaseUnavailable(message, is_busy=True)
    function = _app_function(error)
    if function is None:
        if sqlstate == _READ_ONLY and not isinstance(error, ServerReadOnly):
            return DatabaseUnavailable(f"{TAKES_NO_WRITES}: it is a standby, or read-only")
        if sqlstate == _STALE_PLAN or sqlstate in _PASSING or sqlstate[:2] in _PASSING_CLASSES:
            return DatabaseUnavailable(message)
        if sqlstate in _FORBIDDEN:
            return DatabaseForbidden(f"{message}: run `reactor migrate`, and connect as reactor_worker")
    return DatabaseRefused(message, sqlstate=sqlstate)


def is_unusable(error: Exception) -> bool:
    """Return whether the connection must be closed: it is read-only, is ending, or has a stale plan."""
    sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
    return sqlstate is not None and (sqlstate in _UNUSABLE or sqlstate[:2] in _UNUSABLE_CLASSES)


def is_unstorable_text(error: Exception) -> bool:
    """Return whether text in the call can't be stored: NUL, a surrogate, or not in the database's encoding."""
    return isinstance(error, UnicodeEncodeError) or (
        isinstance(error, psycopg.DataError) and error.sqlstate in {None, "22021", "22P05"}
    )


def message_of(error: Exception) -> str:
    """Return the server's message in one line, with the constraint or the app's function that refused."""
    if not isinstance(error, psycopg.Error):
        return type(error).__name__
    primary = error.diag.message_primary
    # messages of libpq (refused, unknown host, wrong password) have no diag, and contain no password
    lines = [line.strip() for line in (primary or str(error)).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("Is the server running"))
    text = text.removeprefix("connection failed: ") or type(error).__name__
    if (error.sqlstate or "").startswith(_DATA_EXCEPTION):
        text = _VALUE.sub("", text)
    text = "".join(char if char.isprintable() else " " for char in text)[:_LONGEST_MESSAGE]
    if (constraint := error.diag.constraint_name) and constraint not in text:
        text = f"{text} (constraint {constraint})"
    function = _app_function(error)
    return f"{text} (raised by {function})" if function else text


def _app_function(error: Exception) -> str | None:
    """Return the app's function or trigger that raised the error; None if it wasn't one."""
    context = error.diag.context if isinstance(error, psycopg.Error) else None
    innermost = _FUNCTION.search(context or "")
    if innermost is None:
        return None
    schema, name = innermost.groups()
    return None if schema == "reactor" or (schema == "public" and name in _PUBLIC_API) else f"{schema}.{name}"
