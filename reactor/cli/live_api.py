"""What the reactor on this machine says of itself, for a command that runs beside it."""

import json
import urllib.request
from typing import Any
from urllib.error import URLError

from reactor.core.settings import Settings

_WITHIN_S = 0.5
_AT_MOST_BYTES = 1 << 20
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is listened on, not what is opened


def ask(settings: Settings) -> dict[str, Any] | None:
    """Return what GET /api/live answers where the settings say that a reactor listens; None where none answers."""
    if settings.http_port == 0:
        return None  # it took any free one
    host = _EVERYWHERE.get(settings.http_host, settings.http_host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}/api/live"
    headers = {"Authorization": f"Bearer {settings.http_token}"} if settings.http_token else {}
    request = urllib.request.Request(address, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_WITHIN_S) as answer:
            facts = json.loads(answer.read(_AT_MOST_BYTES))
    except (URLError, OSError, ValueError):  # nobody there, or something else that speaks otherwise
        return None
    return facts if isinstance(facts, dict) else None
