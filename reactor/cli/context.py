"""Loads the settings of a command and finds its database URL."""

import os
from pathlib import Path

import click

from reactor import configuration
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings
from reactor.embedded.server import running_url
from reactor.telemetry import logging


def load_settings() -> Settings:
    """Read the settings and configure logging. Raises ConfigInvalid, which lists all problems."""
    settings = configuration.load(os.environ, click.get_current_context().find_root().obj)
    logging.configure(settings.log_level, settings.log_format)
    return settings


def database_url(settings: Settings) -> str:
    """Return the URL of the configured database, or of the running embedded server if no database is configured.

    Raises ConfigInvalid if no embedded server is running.
    """
    url = settings.database_url if settings.database_url is not None else running_url(embedded_dir(settings))
    if url is None:
        raise ConfigInvalid(
            "REACTOR_DATABASE_URL is not set, and no embedded database is running: set it, or start `reactor run` here"
        )
    return url


def embedded_dir(settings: Settings) -> Path:
    """Return the data folder of the embedded server."""
    return settings.data_dir.absolute() / "postgres"
