"""`reactor demo`: runs a reactor and a simulated app for about half a minute. Needs no setup."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

import anyio
import click
from rich.console import Console

from reactor.cli.terminal import say
from reactor.demo.run import run_demo
from reactor.demo.view import DemoView
from reactor.embedded.private import PRIVATE_UMASK, admit_server
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from reactor.telemetry import logging


@click.command()
@click.option("--keep", is_flag=True, help="Keep the demo's folder, with its store, spool and database.")
def demo(*, keep: bool) -> None:
    """Show the reactor at work with a simulated app.

    Starts an embedded PostgreSQL in a temporary folder and an app whose uploads fail and whose runs go stale. Touches
    nothing else and usually ends within 30 s. Exits 1 if a stored object or a count is wrong.
    """
    logging.configure("CRITICAL", "text")  # no log lines: the view shows the events
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM, like Ctrl-C, removes the folder
    home = Path(tempfile.mkdtemp(prefix="reactor-demo-"))
    os.umask(PRIVATE_UMASK)
    admit_server(home)
    try:
        with EmbeddedPostgres(home / "postgres", durable=False) as server:
            migrate(server.url)
            with DemoView(Console()) as view:
                problems = anyio.run(run_demo, server.url, home, view)
    finally:
        if keep:
            say(f"kept {home}", err=True)
        else:
            shutil.rmtree(home, ignore_errors=True)
    for problem in problems:
        say(f"reactor: {problem}", err=True)
    if problems:
        raise SystemExit(1)
    say("Verified: every stored object has the bytes of its file, and every count is correct.")
