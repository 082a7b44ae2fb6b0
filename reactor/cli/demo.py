"""`reactor demo`: see it work in half a minute."""

import shutil
import signal
import tempfile
from pathlib import Path

import anyio
import click
from rich.console import Console

from reactor.demo.run import perform
from reactor.demo.view import View
from reactor.embedded.server import EmbeddedPostgres
from reactor.postgres.migrate import migrate
from reactor.telemetry import logging


@click.command()
@click.option("--keep", is_flag=True, help="Keep the demo's folder, to look at what it left.")
@click.pass_context
def demo(ctx: click.Context, *, keep: bool) -> None:
    """Play an app whose uploads fail and whose runs go stale, and show what the reactor makes of it.

    Starts a PostgreSQL of its own in a temporary folder, touches nothing else, and ends by itself within 30 s.
    Exits 1 when a stored file's bytes differ or a count is off.
    """
    logging.configure("CRITICAL", "text")  # the view says what happens
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left behind
    home = Path(tempfile.mkdtemp(prefix="reactor-demo-"))
    home.chmod(0o755)  # the database's own account, when root plays, has to get through
    try:
        console = Console(markup=True)
        with EmbeddedPostgres(home / "postgres", durable=False) as server:
            migrate(server.url)
            with View(console) as view:
                problems = anyio.run(perform, server.url, home, view)
    finally:
        if keep:
            click.echo(f"kept {home}", err=True)
        else:
            shutil.rmtree(home, ignore_errors=True)
    for problem in problems:
        click.echo(f"reactor: {problem}", err=True)
    if problems:
        ctx.exit(1)
    click.echo("The books balance: every stored object is byte for byte its file, every count is right.")
