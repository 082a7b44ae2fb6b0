"""A PostgreSQL server with a small notification queue, and a way to fill it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from support.servers.postgres import programs

_FIRST_WITH_THE_SETTING = 170000


@contextmanager
def small_queue(server_url: str, folder: Path) -> Iterator[str]:
    """Start a migrated server with a queue of 512 KiB; yield its URL. Skips if the version can't limit the queue."""
    with psycopg.connect(server_url) as conn:
        if conn.info.server_version < _FIRST_WITH_THE_SETTING:
            pytest.skip("max_notify_queue_pages needs PostgreSQL 17; older versions have a fixed queue of 8 GB")
    with EmbeddedPostgres(
        folder / "postgres",
        durable=False,
        bin_dir=programs(),
        options={"max_notify_queue_pages": "64"},
    ) as server:
        migrate(server.url)
        yield server.url


@contextmanager
def stuck_listener(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Listen and keep a transaction open, so that PostgreSQL can't free any part of the queue."""
    with psycopg.connect(url) as stuck:
        stuck.execute("listen reactor_uploads")
        stuck.commit()
        stuck.execute("select 1")
        yield stuck


def fill(url: str) -> None:
    """Send notifications, each in its own commit, until the queue is full."""
    with (
        psycopg.connect(url, autocommit=True) as conn,
        pytest.raises(psycopg.errors.ProgramLimitExceeded),
    ):
        for _ in range(200):
            conn.execute("select pg_notify('reactor_uploads', gen_random_uuid() || repeat('x', 7900))")
