"""`reactor status`: what waits, what is overdue, who is there."""

from typing import Any

import click
from rich.table import Table

from reactor.cli.common import as_json, database_url, load_settings, print_json
from reactor.cli.live_view import LiveView
from reactor.cli.watch import console, follow, readings
from reactor.core.durations import format_duration
from reactor.postgres.admin import inspecting


@click.command()
@as_json
@click.option("--watch", is_flag=True, help="Look again every two seconds, until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, *, as_json: bool, watch: bool) -> None:
    """Show uploads, runs and reactors as the database sees them.

    \b
    With --watch: what the live page shows, on a terminal; in a pipe one table after another; with --json one object a
    line. What a reactor alone knows is asked of the one at REACTOR_HTTP_HOST and _PORT, if it works for this database.
    A database that goes away is said, and waited for. Ctrl-C and SIGTERM are its ordinary end: exit 0.
    """
    settings = load_settings(ctx)
    if watch:
        patience_s = settings.heartbeat_timeout_s
        if as_json:
            follow(readings(lambda: database_url(settings), lambda inspector: inspector.status(patience_s)), None)
        else:
            view = LiveView(settings)
            follow(
                readings(lambda: database_url(settings), lambda inspector: inspector.live_summary(patience_s)),
                view.draw,
            )
        return
    with inspecting(database_url(settings)) as inspector:
        answer = inspector.status(settings.heartbeat_timeout_s)
        users = inspector.fullest_users() if as_json else []
    if as_json:
        print_json(answer | {"users": users})
    else:
        console().print(table(answer))


def table(status: dict[str, Any]) -> Table:
    """Return what reactor.status() said, for people."""
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
    _add_quotas(table, status)
    reactors = status["reactors"]
    table.add_row("reactors", str(len(reactors)) if reactors else "none has left a sign of life")
    for reactor in reactors:
        seen = format_duration(max(0.0, float(reactor["seen_s_ago"])))
        table.add_row(f"  {reactor['host']}", f"{reactor['mode']}, seen {seen} ago, version {reactor['version']}")
    table.add_row("notification queue", f"{float(status['notification_queue_usage']):.2%} full")
    return table


def _add_quotas(table: Table, status: dict[str, Any]) -> None:
    usage, rejections = status["storage_usage"], status["quota_rejections"]
    table.add_row("storage used", f"{sum(int(plan['bytes']) for plan in usage):,} bytes")
    for plan in usage:
        table.add_row(f"  {plan['plan']}", f"{int(plan['bytes']):,} bytes, {plan['users']} users")
    table.add_row("refused by quota", f"{sum(int(each['last_hour']) for each in rejections)} in the last hour")
    for each in rejections:
        if each["last_hour"]:
            table.add_row(f"  {each['quota']}, plan {each['plan']}", str(each["last_hour"]))
