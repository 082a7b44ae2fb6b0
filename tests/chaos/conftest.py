"""A PostgreSQL server that the chaos tests share, and a harness with its own database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.chaos.harness import Fleet, Harness, fleet, open_harness
from support.servers.postgres import own_server

from reactor.embedded.server import EmbeddedPostgres


@pytest.fixture(scope="session")
def chaos_server() -> Iterator[EmbeddedPostgres]:
    with own_server() as server:
        yield server


@pytest.fixture
def harness(chaos_server: EmbeddedPostgres, tmp_path: Path) -> Iterator[Harness]:
    """A harness on the shared server. A test may stop the server, but must start it again."""
    with open_harness(tmp_path, chaos_server) as harness:
        yield harness


@pytest.fixture
def reactors(harness: Harness) -> Iterator[Fleet]:
    with fleet(harness) as reactors:
        yield reactors
