"""What the commands share: settings, a database URL that is really there, and how rows are shown."""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from reactor import configuration
from reactor.core.durations import format_duration
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings
from reactor.embedded.server import running_url
from reactor.telemetry import logging

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, for programs.")


def load_settings(ctx: click.Context) -> Settings:
    """Read the settings and set up the logs by them. Raises ConfigInvalid with every problem there is."""
    settings = configuration.load(os.environ, ctx.find_root().obj)
    logging.configure(settings.log_level, settings.log_format)
    return settings


def database_url(settings: Settings) -> str:
    """Return the configured database's URL, or that of the embedded one while `reactor run` has it running."""
    url = settings.database_url if settings.database_url is not None else running_url(embedded_dir(settings))
    if url is None:
        raise ConfigInvalid(
            "REACTOR_DATABASE_URL isn't set, and no embedded database is running: set it, or start `reactor run` here"
        )
    return url


def embedded_dir(settings: Settings) -> Path:
    """Return where the embedded server keeps its data."""
    return settings.data_dir.absolute() / "postgres"


_FEWER = (10_000, 50, 50)
"""Objects more than before, and passes over the young and the middle-aged, until the collector looks again."""


def spare_the_collector() -> None:
    """Have Python's garbage collector pass over what starting made, and come by less often.

    What starting made lives for as long as the process does, and would be looked through again whenever work has added
    a quarter to it. What an upload is made of lives for a batch or two and goes by itself; by default it would be
    looked through after every 700 objects. Both were a tenth of all that uploads cost.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_FEWER)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON, on one line when `indent` is None."""
    click.echo(json.dumps(value, default=_plain, indent=indent, ensure_ascii=False))


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return float(value)
        case UUID():
            return str(value)
        case _:
            raise TypeError(f"no JSON for {type(value).__name__}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows as a table on a terminal, as tab-separated lines in a pipe; say `empty` if there are none."""
    if not rows:
        click.echo(empty, err=True)
        return
    cells = [[show(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        for row in cells:
            click.echo("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in cells:
        table.add_row(*row)
    Console(markup=False).print(table)


def show(value: object) -> str:
    """Return a value as a person reads it."""
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            return format_duration(value.total_seconds())
        case _:
            return str(value)


def change(
    ids: Sequence[UUID],
    do: Callable[[Sequence[UUID]], Sequence[UUID]],
    *,
    done: str,
    refused: str,
    why: Mapping[UUID, str] = MappingProxyType({}),
) -> None:
    """Do something to rows by id; name those that it wasn't done to, and exit 1 if there were any.

    `refused` says that a row wasn't in a state for it, unless `do` has left another reason in `why`.
    """
    changed = do(ids)
    for row_id in changed:
        click.echo(f"{row_id} {done}")
    left = [row_id for row_id in ids if row_id not in set(changed)]
    for row_id in left:
        click.echo(f"reactor: {row_id} {why.get(row_id, refused)}", err=True)
    if left:
        raise SystemExit(1)
