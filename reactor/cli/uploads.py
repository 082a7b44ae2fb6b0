"""`reactor uploads`: list, show, retry, cancel and purge queued uploads."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from uuid import UUID

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_fields, print_json
from reactor.cli.rows import change_rows, ids_argument, list_options, print_rows
from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import ReactorError
from reactor.core.model import WHY_UNCHANGED
from reactor.postgres.admin import Inspector, Row, inspecting
from reactor.storage.spool import Spool

_COLUMNS = ("id", "status", "retry_count", "byte_size", "bucket", "object_path", "next_retry_at", "error_code")
_HIDDEN_FIELDS = ("errors", "lease_token")


@click.group()
def uploads() -> None:
    """List, show, retry, cancel or purge queued uploads."""


@uploads.command("list")
@list_options(["failed", "uploading", "dead", "cancelled"])
@click.pass_context
def list_(ctx: click.Context, *, status: str | None, user: UUID | None, limit: int, as_json: bool) -> None:
    """List uploads that are not stored yet, newest first."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        rows = inspector.uploads(status=status, user=user, limit=limit)
    print_rows(rows, _COLUMNS, as_json=as_json, empty="no uploads")


@uploads.command("show")
@click.argument("upload_id", type=click.UUID, metavar="ID")
@as_json
@click.pass_context
def show_(ctx: click.Context, upload_id: UUID, *, as_json: bool) -> None:
    """Show one upload: state, errors and trace."""
    settings = load_settings(ctx)
    with inspecting(database_url(settings)) as inspector:
        row = inspector.upload(upload_id)
    row["trace_url"] = f"{settings.trace_url.rstrip('/')}/trace/{row['trace_id']}" if settings.trace_url else None
    if as_json:
        print_json(row)
        return
    print_fields({name: value for name, value in row.items() if name not in _HIDDEN_FIELDS}, width=17)
    for error in row["errors"]:
        click.echo(f"attempt {error.get('attempt')} at {error.get('at')}: {error.get('code')}: {error.get('message')}")


@uploads.command("retry")
@ids_argument
@click.pass_context
def retry(ctx: click.Context, ids: Sequence[UUID]) -> None:
    """Retry uploads now.

    Dead and cancelled uploads are queued again with all their attempts; waiting ones become due at once. Exits 1 if
    any of them was not changed.
    """
    reasons: dict[UUID, str] = {}

    def requeue(inspector: Inspector, ids: Sequence[UUID]) -> list[UUID]:
        rows = inspector.requeue(ids)
        for row in rows:
            if row["code"]:
                reasons[row["id"]] = f"was not changed: {row['code']}: {CATALOGUE[row['code']].message}"
        return [row["id"] for row in rows if not row["code"]]

    _change(ctx, ids, requeue, done="is due", refused=WHY_UNCHANGED["retry"], reasons=reasons)


@uploads.command("cancel")
@ids_argument
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[UUID]) -> None:
    """Cancel uploads.

    Stops further attempts and releases the reserved bytes; the row and its spooled file stay until they are purged.
    Exits 1 if any of them was not changed.
    """
    _change(ctx, ids, Inspector.cancel, done="cancelled", refused=WHY_UNCHANGED["cancel"])


@uploads.command("purge")
@ids_argument
@click.pass_context
def purge(ctx: click.Context, ids: Sequence[UUID]) -> None:
    """Delete dead or cancelled uploads and their spooled files.

    Exits 1 if any of them was not deleted.
    """
    settings = load_settings(ctx)
    spool = Spool(settings.spools)
    with inspecting(database_url(settings)) as inspector:

        def delete(ids: Sequence[UUID]) -> list[UUID]:
            rows = inspector.purge(ids)
            for row in rows:
                _delete_spooled_file(spool, row)
            return [row["id"] for row in rows]

        change_rows(ids, delete, done="purged", refused=WHY_UNCHANGED["purge"])


def _delete_spooled_file(spool: Spool, row: Row) -> None:
    try:
        deleted = spool.discard(row["spool"], row["temp_file_path"] or "")
    except ReactorError as error:
        click.echo(f"reactor: {row['id']}: its spooled file stays: {error}", err=True)
    else:
        if not deleted:
            click.echo(f"reactor: {row['id']}: its spooled file was already deleted", err=True)


def _change(
    ctx: click.Context,
    ids: Sequence[UUID],
    change: Callable[[Inspector, Sequence[UUID]], Sequence[UUID]],
    *,
    done: str,
    refused: str,
    reasons: Mapping[UUID, str] = MappingProxyType({}),
) -> None:
    with inspecting(database_url(load_settings(ctx))) as inspector:
        change_rows(ids, partial(change, inspector), done=done, refused=refused, reasons=reasons)
