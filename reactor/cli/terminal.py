"""Prints text. Every command prints through this file or output.py, so that no value reaches a terminal unchanged.

A row, a server's message or a file name may contain escape sequences, line ends and bidirectional controls.
"""

import click

from reactor.core.printable import printable


def say(line: str, *, err: bool = False, label: str = "", colour: str | None = None) -> None:
    """Print one line, without unprintable characters, on stdout or stderr. `label` precedes it, in a colour."""
    click.echo(click.style(printable(label), fg=colour) + printable(line), err=err)


def print_text(text: str) -> None:
    """Print lines that contain no value of others, or only printable ones."""
    click.echo(text)
