"""Event-driven Postgres LISTEN/NOTIFY reactor.

    import anyio, os, reactor

    anyio.run(reactor.Reactor(reactor.load(os.environ)).run)

`Reactor`, `Settings` and `load` are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reactor.app import Reactor
    from reactor.core.settings import Settings
    from reactor.edge.environ import load

__all__ = ["Reactor", "Settings", "__version__", "load"]

__version__ = version("reactor")

_HOME = {"Reactor": "reactor.app", "Settings": "reactor.core.settings", "load": "reactor.edge.environ"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reactor' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
