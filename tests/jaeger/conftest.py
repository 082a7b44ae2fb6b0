"""Fixtures of the tests that read traces in a real Jaeger. Without one, these tests are skipped, with the reason."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.app import App
from support.servers.fault_server import FaultServer
from support.servers.jaeger import Jaeger, running_jaeger
from support.traced import TracedApp


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """One Jaeger for all tests of this process. A test recognises its own traces by their ids."""
    with running_jaeger(tmp_path_factory.mktemp("jaeger")) as started:
        yield started


@pytest.fixture
def jaeger_on_disk(tmp_path: Path) -> Iterator[Jaeger]:
    """A Jaeger that stores traces in Badger: before 2.17, Jaeger's memory finds nothing for error=true."""
    storage = {"extensions__jaeger_query__storage__traces": "disk"}
    storage |= {"exporters__jaeger_storage_exporter__trace_storage": "disk"}
    storage |= {"extensions__jaeger_storage__backends__disk__badger__ephemeral": "true"}
    with running_jaeger(tmp_path, **storage) as started:
        yield started


@pytest.fixture
def traced(app: App, jaeger: Jaeger, tmp_path: Path) -> Iterator[TracedApp]:
    with FaultServer() as s3:
        yield TracedApp(app=app, s3=s3, jaeger=jaeger, folder=tmp_path)
