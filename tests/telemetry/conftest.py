"""Fixtures of the telemetry's tests."""

import threading
from collections.abc import Iterator

import pytest
from loguru import logger


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """The messages logged at INFO and above."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="INFO")
    yield lines
    logger.remove(sink)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove this machine's proxy variables: servers on loopback are not behind a proxy."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _all_threads_end() -> Iterator[None]:
    """Wait for the exporting threads to end. If the collector hangs, they outlive close() and may log lines later."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("Otel", "reactor-")):
            thread.join(15)
            assert not thread.is_alive(), thread
