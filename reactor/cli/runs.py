"""`reactor runs`: list, show and fail interpretation runs."""

from collections.abc import Sequence
from uuid import UUID

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_fields, print_json
from reactor.cli.rows import change_rows, ids_argument, list_options, print_rows
from reactor.core.model import WHY_UNCHANGED
from reactor.postgres.admin import inspecting

_COLUMNS = ("id", "status", "source_id", "started_at", "heartbeat_at", "timeout_at", "error_code")


@click.group()
def runs() -> None:
    """List, show or fail interpretation runs."""


@runs.command("list")
@list_options(["pending", "running", "completed", "failed"])
@click.pass_context
def list_(ctx: click.Context, *, status: str | None, user: UUID | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        rows = inspector.runs(status=status, user=user, limit=limit)
    print_rows(rows, _COLUMNS, as_json=as_json, empty="no runs")


@runs.command("show")
@click.argument("run_id", type=click.UUID, metavar="ID")
@as_json
@click.pass_context
def show_(ctx: click.Context, run_id: UUID, *, as_json: bool) -> None:
    """Show one run: state, deadlines and trace."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        row = inspector.run(run_id)
    if as_json:
        print_json(row)
    else:
        print_fields(row, width=21)


@runs.command("fail")
@ids_argument
@click.option(
    "--message", default="failed by an operator", show_default=True, help="The reason, stored as error_message."
)
@click.pass_context
def fail(ctx: click.Context, ids: Sequence[UUID], message: str) -> None:
    """Fail pending or running runs.

    Exits 1 if any of them was not failed.
    """
    with inspecting(database_url(load_settings(ctx))) as inspector:
        change_rows(ids, lambda ids: inspector.fail_runs(ids, message), done="failed", refused=WHY_UNCHANGED["fail"])
