"""Functions for `reactor uploads` and `reactor runs`: list rows, and change rows by id."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from uuid import UUID

import click

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_json, print_table
from reactor.cli.terminal import say
from reactor.core.model import WHY_UNCHANGED
from reactor.postgres.admin import Inspector, Row, inspecting

ids_argument = click.argument("ids", type=click.UUID, nargs=-1, required=True, metavar="ID…")


def list_command(
    *, statuses: Sequence[str], read: Callable[..., list[Row]], columns: Sequence[str], empty: str, help_text: str
) -> click.Command:
    """Return the command `list`. It prints filtered rows as JSON, or the columns `columns` as a table.

    `read` is a method of Inspector with the parameters status, user and limit. `empty` is printed if there are no rows.
    """

    @click.command("list", help=help_text)
    @click.option("--status", type=click.Choice(statuses), help="Show only rows with this status.")
    @click.option("--user", type=click.UUID, help="Show only this user's rows.")
    @click.option(
        "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Show at most this many rows."
    )
    @as_json
    def list_(*, as_json: bool, **filters: Any) -> None:
        with inspecting(database_url(load_settings())) as inspector:
            rows = read(inspector, **filters)
        if as_json:
            print_json(rows)
        else:
            print_table(columns, [[row[column] for column in columns] for row in rows], empty=empty)

    return list_


def change_rows(
    ids: Sequence[UUID],
    action: str,
    change: Callable[[Inspector, Sequence[UUID]], Sequence[UUID]],
    *,
    done: str,
    reasons: Mapping[UUID, str] = MappingProxyType({}),
) -> None:
    """Change rows by id and print each result. Exits with 1 if any row was not changed.

    `change` returns the ids of the changed rows, and may add the reasons for unchanged rows to `reasons`. A row without
    a reason there gets WHY_UNCHANGED[action].
    """
    with inspecting(database_url(load_settings())) as inspector:
        changed = change(inspector, ids)
    for row_id in changed:
        say(f"{row_id} {done}")
    unchanged = [row_id for row_id in ids if row_id not in set(changed)]
    for row_id in unchanged:
        say(f"reactor: {row_id} {reasons.get(row_id, WHY_UNCHANGED[action])}", err=True)
    if unchanged:
        raise SystemExit(1)
