"""Prints values as JSON for programs, and as tables or fields for people."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from reactor.core.durations import format_duration

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON, on one line if `indent` is None."""
    click.echo(json.dumps(value, default=_json_value, indent=indent, ensure_ascii=False))


def _json_value(value: Any) -> Any:
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
            raise TypeError(f"{type(value).__name__} has no JSON form")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows as a table on a terminal, as tab-separated lines in a pipe. Without rows, print `empty` on stderr."""
    if not rows:
        click.echo(empty, err=True)
        return
    cells = [[format_value(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        click.echo("\t".join(columns))
        for row in cells:
            click.echo("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in cells:
        table.add_row(*row)
    Console(markup=False).print(table)


def print_fields(fields: Mapping[str, object], *, width: int) -> None:
    """Print one `name value` line per field that is not None. Pad each name to `width` characters."""
    for name, value in fields.items():
        if value is not None:
            click.echo(f"{name:<{width}} {format_value(value)}")


def format_value(value: object) -> str:
    """Return a value as text for people. Times are in the local time zone."""
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            return format_duration(value.total_seconds())
        case _:
            return str(value)
