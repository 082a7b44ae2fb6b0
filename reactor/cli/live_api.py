"""The live API of the reactor on this machine, for commands that run beside it."""

import json
import urllib.request
from typing import Any
from urllib.error import URLError

from reactor.core.settings import Settings

_TIMEOUT_S = 0.5
_SIZE_LIMIT_BYTES = 1 << 20
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to listen on, not to connect to


def fetch_live(settings: Settings) -> dict[str, Any] | None:
    """Return the answer of GET /api/live at the configured host and port; None if no reactor answers there."""
    if settings.http_port == 0:
        return None  # the reactor chose a free port
    host = _LOOPBACK_OF.get(settings.http_host, settings.http_host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}/api/live"
    headers = {"Authorization": f"Bearer {settings.http_token}"} if settings.http_token else {}
    request = urllib.request.Request(address, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            live = json.loads(response.read(_SIZE_LIMIT_BYTES))
    except (URLError, OSError, ValueError):  # nothing listens there, or another program does
        return None
    return live if isinstance(live, dict) else None
