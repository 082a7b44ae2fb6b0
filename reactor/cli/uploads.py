"""`reactor uploads`: list, show, retry, cancel and purge queued uploads."""

from collections.abc import Sequence
from uuid import UUID

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_fields, print_json
from reactor.cli.rows import change_rows, ids_argument, list_command
from reactor.cli.terminal import say
from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import ReactorError
from reactor.postgres.admin import Inspector, inspecting
from reactor.storage.spool import Spool

_COLUMNS = ("id", "status", "retry_count", "byte_size", "bucket", "object_path", "next_retry_at", "error_code")
_HIDDEN_FIELDS = ("errors", "lease_token")


@click.group()
def uploads() -> None:
    """List, show, retry, cancel or purge queued uploads."""


uploads.add_command(
    list_command(
        statuses=["failed", "uploading", "dead", "cancelled"],
        read=Inspector.uploads,
        columns=_COLUMNS,
        empty="no uploads",
        help_text="List uploads that are not stored yet, newest first.",
    )
)


@uploads.command("show")
@click.argument("upload_id", type=click.UUID, metavar="ID")
@as_json
def show_(upload_id: UUID, *, as_json: bool) -> None:
    """Show one upload: state, errors and trace."""
    settings = load_settings()
    with inspecting(database_url(settings)) as inspector:
        row = inspector.upload(upload_id)
    row["trace_url"] = f"{settings.trace_url.rstrip('/')}/trace/{row['trace_id']}" if settings.trace_url else None
    if as_json:
        print_json(row)
        return
    print_fields({name: value for name, value in row.items() if name not in _HIDDEN_FIELDS}, width=17)
    for error in row["errors"]:
        say(f"attempt {error.get('attempt')} at {error.get('at')}: {error.get('code')}: {error.get('message')}")


@uploads.command("retry")
@ids_argument
def retry(ids: Sequence[UUID]) -> None:
    """Retry uploads now.

    Queues dead and cancelled uploads again; each may use all max_retries attempts again. Makes waiting uploads due
    now. Exits 1 if any upload was not changed.
    """
    reasons: dict[UUID, str] = {}

    def requeue(inspector: Inspector, ids: Sequence[UUID]) -> list[UUID]:
        rows = inspector.requeue(ids)
        for row in rows:
            if row["code"]:
                reasons[row["id"]] = f"was not changed: {row['code']}: {CATALOGUE[row['code']].message}"
        return [row["id"] for row in rows if not row["code"]]

    change_rows(ids, "retry", requeue, done="is due", reasons=reasons)


@uploads.command("cancel")
@ids_argument
def cancel(ids: Sequence[UUID]) -> None:
    """Cancel uploads.

    Stops further attempts and releases the reserved bytes; the row and its spooled file stay until they are purged.
    Exits 1 if any of them was not changed.
    """
    change_rows(ids, "cancel", Inspector.cancel, done="cancelled")


@uploads.command("purge")
@ids_argument
def purge(ids: Sequence[UUID]) -> None:
    """Delete dead or cancelled uploads and their spooled files.

    Exits 1 if any of them was not deleted.
    """
    spool = Spool(load_settings().spools)

    def delete(inspector: Inspector, ids: Sequence[UUID]) -> list[UUID]:
        rows = inspector.purge(ids)
        for row in rows:
            try:
                if not spool.discard(row["spool"], row["temp_file_path"] or ""):
                    say(f"reactor: {row['id']}: its spooled file was already deleted", err=True)
            except ReactorError as error:
                say(f"reactor: {row['id']}: its spooled file stays: {error}", err=True)
        return [row["id"] for row in rows]

    change_rows(ids, "purge", delete, done="purged")
