"""`reactor quota`: what users may use and use, their plans, their books."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import click

from reactor.cli.common import as_json, database_url, load_settings, print_json, show
from reactor.postgres.admin import inspecting

_user = click.argument("user", type=click.UUID, metavar="USER")


@click.group()
def quota() -> None:
    """Look at what users may use and use; set their plans; recount their books."""


@quota.command("show")
@_user
@as_json
@click.pass_context
def show_(ctx: click.Context, user: UUID, *, as_json: bool) -> None:
    """Show a user's plan, limits and usage."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        _tell(inspector.usage(user), as_json=as_json)


@quota.command("set-plan")
@_user
@click.argument("plan")
@as_json
@click.pass_context
def set_plan(ctx: click.Context, user: UUID, plan: str, *, as_json: bool) -> None:
    """Put a user on a plan. One below what they have refuses new work, and loses nothing."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        _tell(inspector.set_plan(user, plan), as_json=as_json)


@quota.command("recalculate")
@click.argument("users", type=click.UUID, nargs=-1, metavar="USER…")
@click.option("--all", "everybody", is_flag=True, help="Every user's, a few at a time.")
@as_json
@click.pass_context
def recalculate(ctx: click.Context, users: Sequence[UUID], *, everybody: bool, as_json: bool) -> None:
    """Rebuild users' books from the rows of sources and runs, and say which had been wrong. Safe at any time."""
    if bool(users) is everybody:
        raise click.UsageError("name users, or --all")
    with inspecting(database_url(load_settings(ctx))) as inspector:
        if everybody:
            changed = inspector.recalculate_all()
            if as_json:
                print_json({"changed": changed})
            else:
                click.echo(
                    f"{changed} users' books had been wrong and are right now"
                    if changed
                    else "every user's books were right"
                )
            return
        answers = [inspector.recalculate(user) for user in users]
    if as_json:
        print_json(answers)
        return
    for answer in answers:
        click.echo(f"{answer['user_id']} {'had been wrong and is right now' if answer['changed'] else 'was right'}")


def _tell(usage: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(usage)
        return
    for name in _SHOWN:
        value = usage[name]
        click.echo(f"{name:<25} {'unlimited' if value is None and name in _UNLIMITED else show(value)}")


_SHOWN = (
    "user_id",
    "plan",
    "limit_bytes",
    "used_bytes",
    "reserved_bytes",
    "remaining_bytes",
    "sources",
    "interpretation_limit",
    "interpretations_used",
    "interpretations_remaining",
    "billing_month",
    "resets_at",
    "last_calculated",
)
_UNLIMITED = ("limit_bytes", "remaining_bytes", "interpretation_limit", "interpretations_remaining")
