"""`reactor uploads`: look at queued uploads, and act on them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from uuid import UUID

import click

from reactor.cli.common import as_json, change, database_url, load_settings, print_json, print_table, show
from reactor.core.error_codes import CATALOGUE
from reactor.core.errors import ReactorError
from reactor.core.operations import WHY_UNCHANGED
from reactor.postgres.admin import Inspector, Row, inspecting
from reactor.storage.spool import Spool

_ids = click.argument("ids", type=click.UUID, nargs=-1, required=True, metavar="ID…")
_COLUMNS = ("id", "status", "retry_count", "byte_size", "bucket", "object_path", "next_retry_at", "error_code")


@click.group()
def uploads() -> None:
    """Look at queued uploads; retry, cancel or purge them."""


@uploads.command("list")
@click.option("--status", type=click.Choice(["failed", "uploading", "dead", "cancelled"]), help="Only these.")
@click.option("--user", type=click.UUID, help="Only this user's.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
@click.pass_context
def list_(ctx: click.Context, *, status: str | None, user: UUID | None, limit: int, as_json: bool) -> None:
    """List uploads that are not stored yet, the newest first."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        rows = inspector.uploads(status=status, user=user, limit=limit)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows], empty="no uploads")


@uploads.command("show")
@click.argument("upload_id", type=click.UUID, metavar="ID")
@as_json
@click.pass_context
def show_(ctx: click.Context, upload_id: UUID, *, as_json: bool) -> None:
    """Show one upload: its state, its errors, its trace."""
    settings = load_settings(ctx)
    with inspecting(database_url(settings)) as inspector:
        row = inspector.upload(upload_id)
    row["trace_url"] = f"{settings.trace_url.rstrip('/')}/trace/{row['trace_id']}" if settings.trace_url else None
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        if name not in {"errors", "lease_token"} and value is not None:
            click.echo(f"{name:<17} {show(value)}")
    for error in row["errors"]:
        click.echo(f"attempt {error.get('attempt')} at {error.get('at')}: {error.get('code')}: {error.get('message')}")


@uploads.command("retry")
@_ids
@click.pass_context
def retry(ctx: click.Context, ids: Sequence[UUID]) -> None:
    """Put dead or cancelled uploads back with all their tries, and make waiting ones due at once."""
    why: dict[UUID, str] = {}

    def requeue(inspector: Inspector, ids: Sequence[UUID]) -> list[UUID]:
        answered = inspector.requeue(ids)
        for row in answered:
            if row["code"]:
                why[row["id"]] = f"stays as it is: {row['code']}: {CATALOGUE[row['code']].message}"
        return [row["id"] for row in answered if not row["code"]]

    _change(ctx, ids, requeue, done="is due", refused=WHY_UNCHANGED["retry"], why=why)


@uploads.command("cancel")
@_ids
@click.pass_context
def cancel(ctx: click.Context, ids: Sequence[UUID]) -> None:
    """Stop trying: gives the reserved bytes back, keeps the row and the spooled file until purged."""
    _change(ctx, ids, Inspector.cancel, done="cancelled", refused=WHY_UNCHANGED["cancel"])


@uploads.command("purge")
@_ids
@click.pass_context
def purge(ctx: click.Context, ids: Sequence[UUID]) -> None:
    """Forget dead or cancelled uploads, and remove their spooled files."""
    settings = load_settings(ctx)
    spool = Spool(settings.spools)
    with inspecting(database_url(settings)) as inspector:

        def forget(ids: Sequence[UUID]) -> list[UUID]:
            rows = inspector.purge(ids)
            for row in rows:
                _remove(spool, row)
            return [row["id"] for row in rows]

        change(ids, forget, done="purged", refused=WHY_UNCHANGED["purge"])


def _remove(spool: Spool, row: Row) -> None:
    try:
        removed = spool.discard(row["spool"], row["temp_file_path"] or "")
    except ReactorError as error:
        click.echo(f"reactor: {row['id']}: its spooled file stays: {error}", err=True)
    else:
        if not removed:
            click.echo(f"reactor: {row['id']} had no spooled file any more", err=True)


def _change(
    ctx: click.Context,
    ids: Sequence[UUID],
    do: Callable[[Inspector, Sequence[UUID]], Sequence[UUID]],
    *,
    done: str,
    refused: str,
    why: Mapping[UUID, str] = MappingProxyType({}),
) -> None:
    with inspecting(database_url(load_settings(ctx))) as inspector:
        change(ids, partial(do, inspector), done=done, refused=refused, why=why)
