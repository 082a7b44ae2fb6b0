"""`reactor runs`: look at interpretation runs, and fail them by hand."""

from collections.abc import Sequence
from uuid import UUID

import click

from reactor.cli.common import as_json, change, database_url, load_settings, print_json, print_table, show
from reactor.core.operations import WHY_UNCHANGED
from reactor.postgres.admin import inspecting

_COLUMNS = ("id", "status", "source_id", "started_at", "heartbeat_at", "timeout_at", "error_code")


@click.group()
def runs() -> None:
    """Look at interpretation runs; fail them by hand."""


@runs.command("list")
@click.option("--status", type=click.Choice(["pending", "running", "completed", "failed"]), help="Only these.")
@click.option("--user", type=click.UUID, help="Only this user's.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
@click.pass_context
def list_(ctx: click.Context, *, status: str | None, user: UUID | None, limit: int, as_json: bool) -> None:
    """List runs, the newest first."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        rows = inspector.runs(status=status, user=user, limit=limit)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows], empty="no runs")


@runs.command("show")
@click.argument("run_id", type=click.UUID, metavar="ID")
@as_json
@click.pass_context
def show_(ctx: click.Context, run_id: UUID, *, as_json: bool) -> None:
    """Show one run: its state, deadlines and trace."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        row = inspector.run(run_id)
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        if value is not None:
            click.echo(f"{name:<21} {show(value)}")


@runs.command("fail")
@click.argument("ids", type=click.UUID, nargs=-1, required=True, metavar="ID…")
@click.option("--message", default="failed by an operator", show_default=True, help="Why, for its error_message.")
@click.pass_context
def fail(ctx: click.Context, ids: Sequence[UUID], message: str) -> None:
    """Fail runs that are pending or running."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        change(
            ids,
            lambda ids: inspector.fail_runs(ids, message),
            done="failed",
            refused=WHY_UNCHANGED["fail"],
        )
