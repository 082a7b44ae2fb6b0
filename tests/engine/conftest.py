"""Fixtures of the engine's tests."""

import pytest
from support.worker_harness import WorkerHarness


@pytest.fixture
def worker_harness() -> WorkerHarness:
    """A worker of four attempts at once, not running yet."""
    return WorkerHarness()
