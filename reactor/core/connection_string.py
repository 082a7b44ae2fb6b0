"""Recognises a connection string whose password libpq would read as something else.

In a URL, an unescaped @, / or ? in a password ends it. libpq then takes its rest for a host, a port or a database, and
every message about the connection would show it.
"""

import re
from collections.abc import Mapping
from typing import Final

RULE: Final = (
    "a URL in which user and password are percent-encoded (@ as %40, / as %2F, ? as %3F, % as %25) and the port is a "
    "number"
)
"""The rule that a misread connection string breaks; completes "must be …"."""

_URL: Final = re.compile(r"postgres(?:ql)?://", re.IGNORECASE)
_PARAMETER: Final = re.compile(r"\?\w+=")
_PORTS: Final = re.compile(r"[0-9]*(,[0-9]*)*")


def misreads_password(text: str, parts: Mapping[str, object]) -> bool:
    """Return whether a part of the password may have become a host, port or database. `parts` is libpq's reading."""
    if _PORTS.fullmatch(str(parts.get("port") or "")) is None:
        return True
    # a name that begins with @ is an abstract Unix socket
    hosts = [host for name in ("host", "hostaddr") for host in str(parts.get(name) or "").split(",")]
    if any("@" in host[1:] for host in hosts):
        return True
    if _URL.match(text) is None:
        return False
    authority, _, path = _URL.sub("", text, count=1).partition("/")
    before_host, _, _ = authority.rpartition("@")
    return "@" in before_host or "@" in path.partition("?")[0] or _PARAMETER.search(before_host) is not None
