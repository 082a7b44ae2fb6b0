"""Prints values as JSON for programs, and as tables or fields for people, without unprintable characters."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.table import Table

from reactor.cli.terminal import print_text, say
from reactor.core.durations import format_duration
from reactor.core.printable import printable

_NOT_PLAIN = re.compile("[^\n -~]")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON, on one line if `indent` is None."""
    text = json.dumps(value, default=_json_value, indent=indent, ensure_ascii=False)
    print_text(_NOT_PLAIN.sub(_escape, text))


def _escape(match: re.Match[str]) -> str:
    """Return an unprintable character as JSON's escape, which programs read as the same character."""
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


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


class PrintableTable(Table):
    """A table of text, in which unprintable characters are replaced."""

    def add_row(self, *cells: object, style: str | None = None, end_section: bool = False) -> None:  # type: ignore[override]  # cells are text only
        super().add_row(*map(printable, cells), style=style, end_section=end_section)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print rows as a table on a terminal, as tab-separated lines in a pipe. Without rows, print `empty` on stderr."""
    if not rows:
        say(empty, err=True)
        return
    cells = [[format_value(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in ([*columns], *cells):
            print_text("\t".join(row))
        return
    table = PrintableTable(*columns, box=None, pad_edge=False)
    for row in cells:
        table.add_row(*row)
    Console(markup=False).print(table)


def print_fields(fields: Mapping[str, object], *, width: int) -> None:
    """Print one `name value` line per field that is not None. Pad each name to `width` characters."""
    for name, value in fields.items():
        if value is not None:
            say(f"{name:<{width}} {format_value(value)}")


def format_value(value: object) -> str:
    """Return a value as printable text for people. Times are in the local time zone."""
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            return format_duration(value.total_seconds())
        case _:
            return printable(value)
