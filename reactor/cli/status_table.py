"""The table of `reactor status`: uploads, runs, storage usage, refusals by quotas, and reactors."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from reactor.cli.output import PrintableTable
from reactor.core.counted import counted
from reactor.core.durations import duration_text, format_duration
from reactor.core.fleet import SILENT, reactor_names, running


def status_table(status: Mapping[str, Any]) -> Table:
    """Return the result of reactor.status() as a table."""
    table = PrintableTable.grid(padding=(0, 2))
    uploads, runs = status["uploads"], status["runs"]
    age_s = float(uploads["oldest_due_age_s"])
    table.add_row("uploads waiting", str(uploads["failed"]))
    table.add_row("  of them due", f"{uploads['due']}" + (f" (oldest: {format_duration(age_s)})" if age_s else ""))
    table.add_row("uploading", f"{uploads['uploading']}")
    if uploads["leases_expired"]:
        table.add_row("  lease expired", f"{uploads['leases_expired']}: not taken over yet")
    hint = ": see `reactor uploads list --status dead`" if uploads["dead"] else ""
    table.add_row("dead", f"{uploads['dead']}{hint}")
    table.add_row("cancelled", str(uploads["cancelled"]))
    table.add_row("runs running", str(runs["running"]))
    add_stale_runs(table, runs)
    usage = status["storage_usage"]
    table.add_row("storage used", counted(sum(int(plan["bytes"]) for plan in usage), "byte"))
    for plan in usage:
        table.add_row(f"  {plan['plan']}", f"{counted(int(plan['bytes']), 'byte')}, {counted(plan['users'], 'user')}")
    add_common_rows(table, status)
    return table


def add_stale_runs(table: Table, runs: Mapping[str, Any]) -> None:
    """Add a row with the number of stale runs, if there are any."""
    if runs["stale"]:
        table.add_row("  stale", f"{runs['stale']}: not failed by a reactor yet")


def add_common_rows(table: Table, status: Mapping[str, Any]) -> None:
    """Add rows: refusals of the last hour (total, then by quota and plan), running reactors, notification queue usage.

    `status` is the result of reactor.status() or reactor.live_summary().
    """
    rejections, reactors = status["quota_rejections"], status["reactors"]
    table.add_row("refused by quota", f"{sum(int(each['last_hour']) for each in rejections)} in the last hour")
    for each in rejections:
        if each["last_hour"]:
            table.add_row(f"  {each['quota']}, plan {each['plan']}", str(each["last_hour"]))
    alive = len(running(reactors))
    silent = f", {len(reactors) - alive} silent" if alive < len(reactors) else ""
    table.add_row("reactors", f"{alive or 'none is'} running{silent}")
    for each, name in zip(reactors, reactor_names(reactors), strict=True):
        age = duration_text(each["seen_s_ago"])
        state = f"silent for {age}" if each["mode"] == SILENT else f"{each['mode']}, seen {age} ago"
        # not in the first column, which long names would widen
        table.add_row("", f"{name}: {state}, version {each['version']}")
    table.add_row("notification queue", f"{float(status['notification_queue_usage']):.2%} full")
