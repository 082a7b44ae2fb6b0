"""`reactor quota`: users' usage, limits and plans."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, format_value, print_json
from reactor.postgres.admin import inspecting

_user = click.argument("user", type=click.UUID, metavar="USER")

_FIELDS = (
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
_UNLIMITED_IF_NONE = ("limit_bytes", "remaining_bytes", "interpretation_limit", "interpretations_remaining")


@click.group()
def quota() -> None:
    """Show usage and limits, set plans, recalculate usage."""


@quota.command("show")
@_user
@as_json
@click.pass_context
def show_(ctx: click.Context, user: UUID, *, as_json: bool) -> None:
    """Show a user's plan, limits and usage."""
    with inspecting(database_url(load_settings(ctx))) as inspector:
        _print_usage(inspector.usage(user), as_json=as_json)


@quota.command("set-plan")
@_user
@click.argument("plan")
@as_json
@click.pass_context
def set_plan(ctx: click.Context, user: UUID, plan: str, *, as_json: bool) -> None:
    """Set a user's plan.

    If the new limits are below the current usage, nothing is deleted, and new work is refused.
    """
    with inspecting(database_url(load_settings(ctx))) as inspector:
        _print_usage(inspector.set_plan(user, plan), as_json=as_json)


@quota.command("recalculate")
@click.argument("users", type=click.UUID, nargs=-1, metavar="USER…")
@click.option("--all", "all_users", is_flag=True, help="Recalculate every user, in small batches.")
@as_json
@click.pass_context
def recalculate(ctx: click.Context, users: Sequence[UUID], *, all_users: bool, as_json: bool) -> None:
    """Recalculate users' usage from their sources and runs.

    Prints whose usage was wrong. Safe at any time.
    """
    if bool(users) is all_users:
        raise click.UsageError("name users, or --all")
    with inspecting(database_url(load_settings(ctx))) as inspector:
        if all_users:
            _print_changed(inspector.recalculate_all(), as_json=as_json)
            return
        answers = [inspector.recalculate(user) for user in users]
    if as_json:
        print_json(answers)
        return
    for answer in answers:
        click.echo(f"{answer['user_id']} {'was wrong and is corrected' if answer['changed'] else 'was correct'}")


def _print_changed(changed: int, *, as_json: bool) -> None:
    if as_json:
        print_json({"changed": changed})
    elif changed:
        click.echo(f"the usage of {changed} users was wrong and is corrected")
    else:
        click.echo("the usage of every user was correct")


def _print_usage(usage: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(usage)
        return
    for name in _FIELDS:
        value = usage[name]
        is_unlimited = value is None and name in _UNLIMITED_IF_NONE
        click.echo(f"{name:<25} {'unlimited' if is_unlimited else format_value(value)}")
