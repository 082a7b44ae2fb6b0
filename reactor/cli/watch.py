"""What `reactor status --watch` follows: readings of the database, one after another, and how they are shown."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reactor.cli.common import print_json
from reactor.core.durations import format_duration
from reactor.core.errors import ReactorError
from reactor.postgres.admin import Inspector, inspecting

_EVERY_S = 2.0
_PIPE_WIDTH = 200

Status = dict[str, Any]
Reading = Status | ReactorError
"""What the database said, or why it didn't."""

Draw = Callable[[Status], Table]


def console() -> Console:
    """Return the console on stdout; in a pipe nothing is wrapped at the width of a terminal that isn't there."""
    return Console(markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def readings(url: Callable[[], str], read: Callable[[Inspector], Status]) -> Iterator[Reading]:
    """Yield a reading every two seconds, for ever. `url` is asked at each connecting: an embedded server may move."""
    while True:
        try:
            with inspecting(url()) as inspector:
                while True:
                    yield read(inspector)
                    time.sleep(_EVERY_S)
        except ReactorError as error:
            yield error
            time.sleep(_EVERY_S)


def follow(seen: Iterator[Reading], draw: Draw | None) -> None:
    """Show readings until Ctrl-C or SIGTERM; as JSON lines when there is nothing that draws them.

    Raises what the first reading is, if it is an error: a watch must begin with something to see.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # gives the terminal back, as Ctrl-C does
    try:
        first = next(seen)
        if isinstance(first, ReactorError):
            raise first
        out = console()
        if draw is not None and out.is_terminal and not out.is_dumb_terminal:
            _live(out, first, seen, draw)
        else:
            _lines(out, first, seen, draw)
    except KeyboardInterrupt:
        return


def _live(out: Console, first: Status, seen: Iterator[Reading], draw: Draw) -> None:
    latest, lost_at = draw(first), None
    with Live(latest, console=out, auto_refresh=False) as live:
        for reading in seen:
            if isinstance(reading, ReactorError):
                lost_at = lost_at or time.monotonic()
                silence = format_duration(round(time.monotonic() - lost_at))
                words = Text(f"the database hasn't answered for {silence}: {reading}; trying again", style="red")
                live.update(Group(latest, words), refresh=True)
            else:
                latest, lost_at = draw(reading), None
                live.update(latest, refresh=True)


def _lines(out: Console, first: Status, seen: Iterator[Reading], draw: Draw | None) -> None:
    """Write for a pipe: data on stdout, words on stderr."""
    _write(out, first, draw)
    is_lost = False
    for reading in seen:
        if isinstance(reading, ReactorError):
            if not is_lost:
                click.echo(f"reactor: {reading.code}: {reading}; trying again", err=True)
            is_lost = True
            continue
        if is_lost:
            click.echo("reactor: the database answers again", err=True)
        is_lost = False
        _write(out, reading, draw)


def _write(out: Console, status: Status, draw: Draw | None) -> None:
    if draw is None:
        print_json(status, indent=None)
        return
    with out.capture() as drawn:  # printed by click: a reader that went away is an end, not an error
        out.print(draw(status))
    click.echo(drawn.get())
