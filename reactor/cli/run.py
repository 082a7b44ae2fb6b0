"""`reactor run`: the reactor itself."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import click
from attrs import evolve
from loguru import logger

from reactor.app import Reactor
from reactor.cli.common import embedded_dir, load_settings, spare_the_collector
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate


@click.command()
@click.pass_context
def run(ctx: click.Context) -> None:
    """React until told to stop.

    SIGTERM or Ctrl-C: claim no more, finish or hand back what is in flight, exit 0. A second one: exit now.
    Without a database configured: start an embedded one, migrate it, and store into a local folder.
    """
    settings = load_settings(ctx)
    with _database(settings) as settings:
        spare_the_collector()
        anyio.run(_react, settings)
    _leave_threads_behind()


def _leave_threads_behind() -> None:
    """Exit now if a put that was given up still hangs in its socket: Python would wait until that times out."""
    here = threading.current_thread()
    if any(thread is not here and not thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextmanager
def _database(settings: Settings) -> Iterator[Settings]:
    if settings.database_url is not None:
        yield settings
        return
    home = settings.data_dir.absolute()
    try:
        for folder in (home, *settings.spools.values()):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigInvalid(
            f"REACTOR_DATA_DIR: can't make {error.filename} ({error.strerror}) for an embedded PostgreSQL; "
            "set REACTOR_DATABASE_URL to use one of yours, or point REACTOR_DATA_DIR at a folder that can be made"
        ) from error
    with EmbeddedPostgres(embedded_dir(settings)) as server:
        migrate(server.url)
        logger.info("no database configured: using an embedded PostgreSQL, its data below {}", home)
        logger.info("storing into {}, spool {}", settings.store_url, settings.spools["default"])
        yield evolve(settings, database_url=server.url)


async def _react(settings: Settings) -> None:
    reactor = Reactor(settings)
    async with anyio.create_task_group() as tasks:

        async def log_readiness() -> None:
            while True:
                await reactor.wait_ready()
                logger.info("ready; status at {}/api/status", reactor.http_url)
                await reactor.wait_unready()

        async def stop_on_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for received in signals:
                    if reactor.stopping:
                        logger.warning("a second {}: exiting now; leases will expire", received.name)
                        os._exit(1)
                    logger.info("{}: finishing what is in flight", received.name)
                    reactor.stop()

        tasks.start_soon(stop_on_signal)
        tasks.start_soon(log_readiness)
        await reactor.run()
        tasks.cancel_scope.cancel()
    logger.info("stopped")
