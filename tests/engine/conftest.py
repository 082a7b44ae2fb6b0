"""Fixtures of the engine's tests."""

import pytest
from support.worker_harness import WorkerHarness


@pytest.fixture
def worker_harness() -> WorkerHarness:
    """A worker that runs at most four attempts concurrently. The test must start it."""
    return WorkerHarness()
