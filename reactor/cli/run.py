"""`reactor run`: runs a reactor until a signal stops it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import click
from attrs import evolve
from loguru import logger

from reactor.app import Reactor
from reactor.cli.context import embedded_dir, load_settings
from reactor.cli.process import exit_if_threads_hang, run_with_signals, tune_garbage_collector
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings
from reactor.embedded.private import PRIVATE_UMASK, make_private
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate


@click.command()
def run() -> None:
    """Run the reactor until SIGTERM or Ctrl-C.

    The first signal stops claims, finishes or releases the uploads in flight, and exits 0. A second one exits at once
    with 1. Without a configured database, starts an embedded PostgreSQL and migrates it. Stores into a local folder if
    REACTOR_STORE_URL is not set.
    """
    settings = load_settings()
    with _database(settings) as settings:
        tune_garbage_collector()
        anyio.run(_run, settings)
    exit_if_threads_hang()


@contextmanager
def _database(settings: Settings) -> Iterator[Settings]:
    """Yield `settings` unchanged if a database is configured.

    Otherwise start an embedded server and yield settings with the URL of the server, which stops after the block.
    """
    if settings.database_url is not None:
        yield settings
        return
    data_dir = settings.data_dir.absolute()
    os.umask(PRIVATE_UMASK)
    try:
        make_private(data_dir)
        for folder in settings.spools.values():
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigInvalid(
            f"REACTOR_DATA_DIR: cannot create {error.filename} ({error.strerror}) for an embedded PostgreSQL; "
            "set REACTOR_DATABASE_URL to use your own, or point REACTOR_DATA_DIR at a folder that can be created"
        ) from error
    with EmbeddedPostgres(embedded_dir(settings)) as server:
        migrate(server.url)
        logger.info("no database configured: using an embedded PostgreSQL with its data in {}", data_dir)
        logger.info("storing into {}, spool {}", settings.store_url, settings.spools["default"])
        yield evolve(settings, database_url=server.url)


async def _run(settings: Settings) -> None:
    reactor = Reactor(settings)

    async def log_readiness() -> None:
        while True:
            await reactor.wait_ready()
            logger.info("ready; status at {}/api/status", reactor.http_url)
            await reactor.wait_ready(ready=False)

    def stop(received: signal.Signals) -> None:
        if reactor.stopping:
            logger.warning("a second {}: exiting now; leases will expire", received.name)
            os._exit(1)
        logger.info("{}: finishing what is in flight", received.name)
        reactor.stop()

    await run_with_signals(reactor.run, stop, log_readiness)
    logger.info("stopped")
