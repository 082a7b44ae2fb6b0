"""Event-driven Postgres LISTEN/NOTIFY reactor."""

from importlib.metadata import version

__version__ = version("reactor")
