"""What `reactor uploads` and `reactor runs` share: filters, lists, and changes by id."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import click

from reactor.cli.output import as_json, print_json, print_table

P = ParamSpec("P")
T = TypeVar("T")

ids_argument = click.argument("ids", type=click.UUID, nargs=-1, required=True, metavar="ID…")


def list_options(statuses: Sequence[str]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that adds --status (one of `statuses`), --user, --limit and --json."""
    options = (
        click.option("--status", type=click.Choice(statuses), help="Show only rows with this status."),
        click.option("--user", type=click.UUID, help="Show only this user's rows."),
        click.option(
            "--limit",
            type=click.IntRange(1, 100_000),
            default=50,
            show_default=True,
            help="Show at most this many rows.",
        ),
        as_json,
    )

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """Print rows as JSON with all columns, or as a table of `columns`; `empty` replaces a table without rows."""
    if as_json:
        print_json(rows)
    else:
        print_table(columns, [[row[column] for column in columns] for row in rows], empty=empty)


def change_rows(
    ids: Sequence[UUID],
    change: Callable[[Sequence[UUID]], Sequence[UUID]],
    *,
    done: str,
    refused: str,
    reasons: Mapping[UUID, str] = MappingProxyType({}),
) -> None:
    """Change rows by id and print each result. Exits with 1 if any row was not changed.

    `change` returns the ids that it changed. `refused` explains why a row was not changed, unless `reasons`, read
    after `change`, has another explanation.
    """
    changed = change(ids)
    for row_id in changed:
        click.echo(f"{row_id} {done}")
    unchanged = [row_id for row_id in ids if row_id not in set(changed)]
    for row_id in unchanged:
        click.echo(f"reactor: {row_id} {reasons.get(row_id, refused)}", err=True)
    if unchanged:
        raise SystemExit(1)
