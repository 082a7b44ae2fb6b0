"""A server for the tests of faults, one for all that don't harm it, and a world in it for each."""

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
    """A world on a server that others use as well: it may be restarted, and must be up at the end."""
    with open_harness(tmp_path, chaos_server) as world:
        yield world


@pytest.fixture
def reactors(harness: Harness) -> Iterator[Fleet]:
    with fleet(harness) as ships:
        yield ships
