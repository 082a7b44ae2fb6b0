"""Event-driven Postgres LISTEN/NOTIFY reactor.

    import anyio, os, reactor

    anyio.run(reactor.Reactor(reactor.load(os.environ)).run)

    async with reactor.ReactorClient(dsn) as client:
        await client.usage(user_id)

A name's module is imported when the name is first used, so `import reactor` loads no other module.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reactor.app import Reactor
    from reactor.client.async_client import ReactorClient
    from reactor.client.sync_client import SyncReactorClient
    from reactor.configuration import load
    from reactor.core.errors import ReactorError
    from reactor.core.settings import Settings

__all__ = ["Reactor", "ReactorClient", "ReactorError", "Settings", "SyncReactorClient", "__version__", "load"]

__version__ = version("reactor")

_MODULE_OF = {
    "Reactor": "reactor.app",
    "ReactorClient": "reactor.client.async_client",
    "ReactorError": "reactor.core.errors",
    "Settings": "reactor.core.settings",
    "SyncReactorClient": "reactor.client.sync_client",
    "load": "reactor.configuration",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'reactor' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
