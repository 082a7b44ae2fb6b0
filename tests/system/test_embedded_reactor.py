"""A Reactor in an app's own process: its logging, its listener, and misuse."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from anyio import create_task_group, fail_after
from loguru import logger
from support.app import App
from support.recorder import Recorder

from reactor import Reactor
from reactor.core.events import AttemptSettled, Event, Listening

PATIENCE_S = 30.0


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}", level="WARNING")
    yield lines
    logger.remove(sink)


async def test_a_listener_that_raises_is_logged_and_ends_nothing(
    app: App, recorder: Recorder, log_lines: list[str]
) -> None:
    def listen(event: Event) -> None:
        recorder(event)
        raise ValueError("a bug of the app")

    reactor = Reactor(app.settings, listener=listen)
    async with create_task_group() as tasks:
        tasks.start_soon(reactor.run)
        await recorder.wait_for(Listening)
        [upload] = app.queue_uploads()
        await recorder.wait_for(AttemptSettled)
        reactor.stop()
    app.assert_stored(upload)
    assert any(line.startswith("ERROR the listener raised an exception for Listening") for line in log_lines)
    assert any("ValueError: a bug of the app" in line for line in log_lines)


async def test_run_after_stop_or_a_second_run_is_refused_at_the_call(app: App, recorder: Recorder) -> None:
    reactor = Reactor(app.settings, listener=recorder)
    async with create_task_group() as tasks:
        tasks.start_soon(reactor.run)
        await recorder.wait_for(Listening)
        with pytest.raises(RuntimeError, match="has run or was stopped: create another one"):
            _ = reactor.run()
        reactor.stop()
    with pytest.raises(RuntimeError, match="has run or was stopped"):
        _ = reactor.run()

    stopped = Reactor(app.settings)
    stopped.stop()
    with pytest.raises(RuntimeError, match="has run or was stopped"):
        await stopped.run()


async def test_a_reactor_that_is_stopped_before_its_first_step_returns(app: App) -> None:
    """An app whose own work ends at once stops the reactor before the event loop has begun to run it."""
    reactor = Reactor(app.settings)
    with fail_after(PATIENCE_S):
        async with create_task_group() as tasks:
            tasks.start_soon(reactor.run)
            reactor.stop()


_EMBEDDED = """
import sys
import anyio, loguru
import reactor

async def main():
    settings = reactor.load({
        "REACTOR_DATABASE_URL": sys.argv[1], "REACTOR_SPOOL_DIR": sys.argv[2], "REACTOR_HTTP_PORT": "0"
    })
    if sys.argv[3] == "enabled":
        loguru.logger.enable("reactor")
    running = reactor.Reactor(settings)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running.run)
        await running.wait_ready()
        running.stop()

anyio.run(main)
"""


@pytest.mark.parametrize("logging", ["quiet", "enabled"])
def test_an_embedded_reactor_logs_only_if_the_app_asks(app: App, logging: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _EMBEDDED, app.url, str(app.spool), logging],
        cwd=app.spool.parent, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    assert ("| INFO" in done.stderr) == (logging == "enabled")
    assert logging == "enabled" or done.stderr == ""
