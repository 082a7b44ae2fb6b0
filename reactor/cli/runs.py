"""`reactor runs`: list, show and fail interpretation runs."""

from collections.abc import Sequence
from uuid import UUID

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_fields, print_json
from reactor.cli.rows import change_rows, ids_argument, list_command
from reactor.postgres.admin import Inspector, inspecting


@click.group()
def runs() -> None:
    """List, show or fail interpretation runs."""


runs.add_command(
    list_command(
        statuses=["pending", "running", "completed", "failed"],
        read=Inspector.runs,
        columns=("id", "status", "source_id", "started_at", "heartbeat_at", "timeout_at", "error_code"),
        empty="no runs",
        help_text="List runs, newest first.",
    )
)


@runs.command("show")
@click.argument("run_id", type=click.UUID, metavar="ID")
@as_json
def show_(run_id: UUID, *, as_json: bool) -> None:
    """Show one run: state, deadlines and trace."""
    with inspecting(database_url(load_settings())) as inspector:
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
def fail(ids: Sequence[UUID], message: str) -> None:
    """Fail pending or running runs.

    Exits 1 if any of them was not failed.
    """
    change_rows(ids, "fail", lambda inspector, ids: inspector.fail_runs(ids, message), done="failed")
