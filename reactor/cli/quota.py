"""`reactor quota`: users' usage, limits and plans."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import click
from attrs import fields

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, format_value, print_json
from reactor.cli.terminal import say
from reactor.core.counted import counted
from reactor.postgres.admin import inspecting
from reactor.postgres.results import Usage

_user = click.argument("user", type=click.UUID, metavar="USER")


@click.group()
def quota() -> None:
    """Show usage and limits, set plans, recalculate usage."""


@quota.command("show")
@_user
@as_json
def show_(user: UUID, *, as_json: bool) -> None:
    """Show a user's plan, limits and usage."""
    with inspecting(database_url(load_settings())) as inspector:
        _print_usage(inspector.usage(user), as_json=as_json)


@quota.command("set-plan")
@_user
@click.argument("plan")
@as_json
def set_plan(user: UUID, plan: str, *, as_json: bool) -> None:
    """Set a user's plan.

    If the new limits are below the current usage, nothing is deleted, and new work is refused.
    """
    with inspecting(database_url(load_settings())) as inspector:
        _print_usage(inspector.set_plan(user, plan), as_json=as_json)


@quota.command("recalculate")
@click.argument("users", type=click.UUID, nargs=-1, metavar="USER…")
@click.option("--all", "all_users", is_flag=True, help="Recalculate every user, in small batches.")
@as_json
def recalculate(users: Sequence[UUID], *, all_users: bool, as_json: bool) -> None:
    """Recalculate users' usage from their sources and runs.

    Prints whose usage was wrong. Safe at any time.
    """
    if bool(users) is all_users:
        raise click.UsageError("name users, or --all")
    with inspecting(database_url(load_settings())) as inspector:
        answer: Any = (
            {"changed": inspector.recalculate_all()} if all_users else [inspector.recalculate(user) for user in users]
        )
    if as_json:
        print_json(answer)
    elif not all_users:
        for each in answer:
            say(f"{each['user_id']} {'was wrong and is corrected' if each['changed'] else 'was correct'}")
    elif changed := answer["changed"]:
        say(f"the usage of {counted(changed, 'user')} was wrong and is corrected")
    else:
        say("the usage of every user was correct")


def _print_usage(usage: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(usage)
        return
    for name in (attribute.name for attribute in fields(Usage)):
        is_unlimited = usage[name] is None and name != "last_calculated"
        say(f"{name:<25} {'unlimited' if is_unlimited else format_value(usage[name])}")
