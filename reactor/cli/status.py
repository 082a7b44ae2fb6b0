"""`reactor status`: what waits, what is overdue, who is there."""

import time
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from reactor.cli.common import as_json, database_url, load_settings, print_json
from reactor.core.durations import format_duration
from reactor.edge.inspect import inspecting

_WATCH_S = 2.0


@click.command()
@as_json
@click.option("--watch", is_flag=True, help="Refresh every two seconds until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """Show uploads, runs and reactors as the database sees them."""
    settings = load_settings(ctx)
    with inspecting(database_url(settings)) as inspector:
        if as_json:
            print_json(inspector.status(settings.heartbeat_timeout_s) | {"users": inspector.fullest_users()})
            return
        console = Console(markup=False)
        if not watch:
            console.print(_table(inspector.status(settings.heartbeat_timeout_s)))
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(_table(inspector.status(settings.heartbeat_timeout_s)), refresh=True)
                time.sleep(_WATCH_S)


def _table(status: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    uploads, runs = status["uploads"], status["runs"]
    age = float(uploads["oldest_due_age_s"])
    table.add_row("uploads waiting", str(uploads["failed"]))
    table.add_row("  of them due", f"{uploads['due']}" + (f" (the oldest for {format_duration(age)})" if age else ""))
    table.add_row("uploading", f"{uploads['uploading']}")
    if uploads["leases_expired"]:
        table.add_row("  abandoned", f"{uploads['leases_expired']}: no reactor has taken them over yet")
    hint = ": see `reactor uploads list --status dead`" if uploads["dead"] else ""
    table.add_row("dead", f"{uploads['dead']}{hint}")
    table.add_row("cancelled", str(uploads["cancelled"]))
    table.add_row("runs running", str(runs["running"]))
    if runs["stale"]:
        table.add_row("  stale", f"{runs['stale']}: no reactor has failed them yet")
    reactors = status["reactors"]
    table.add_row("reactors", str(len(reactors)) if reactors else "none has left a sign of life")
    for reactor in reactors:
        seen = format_duration(max(0.0, float(reactor["seen_s_ago"])))
        table.add_row(f"  {reactor['host']}", f"{reactor['mode']}, seen {seen} ago, version {reactor['version']}")
    table.add_row("notification queue", f"{float(status['notification_queue_usage']):.2%} full")
    return table
