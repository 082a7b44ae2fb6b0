"""Continuous output of `reactor status --watch`: reads the database every two seconds and shows each reading."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reactor.cli.output import print_json
from reactor.cli.terminal import print_text, say
from reactor.core.durations import format_duration
from reactor.core.errors import ReactorError
from reactor.core.printable import printable
from reactor.postgres.admin import Inspector, inspecting

_INTERVAL_S = 2.0
_PIPE_WIDTH = 200

Status = dict[str, Any]
Reading = Status | ReactorError
"""The status, or the error that was raised while it was read."""

Draw = Callable[[Status], Table]


def console() -> Console:
    """Return a console on stdout. In a pipe, it has 200 columns, so that it wraps no lines."""
    return Console(markup=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def readings(url: Callable[[], str], read: Callable[[Inspector], Status]) -> Iterator[Reading]:
    """Yield a reading every two seconds, forever.

    Calls `url` before each connect, because an embedded server can change its port.
    """
    while True:
        try:
            with inspecting(url()) as inspector:
                while True:
                    yield read(inspector)
                    time.sleep(_INTERVAL_S)
        except ReactorError as error:
            yield error
            time.sleep(_INTERVAL_S)


def follow(readings: Iterator[Reading], draw: Draw | None) -> None:
    """Show readings until Ctrl-C or SIGTERM: as tables made by `draw`, or as JSON lines if `draw` is None.

    If the first reading is an error, raises it, so that a wrong configuration ends the command.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM, like Ctrl-C, restores the terminal
    try:
        first = next(readings)
        if isinstance(first, ReactorError):
            raise first
        out = console()
        if draw is not None and out.is_terminal and not out.is_dumb_terminal:
            _redraw(out, first, readings, draw)
        else:
            _append(out, chain([first], readings), draw)
    except KeyboardInterrupt:
        return


def _redraw(out: Console, first: Status, readings: Iterator[Reading], draw: Draw) -> None:
    """Draw each reading in place of the previous one. During an outage, show it above the last reading."""
    latest, outage_from = draw(first), None
    with Live(latest, console=out, auto_refresh=False) as live:
        for reading in readings:
            if isinstance(reading, ReactorError):
                outage_from = outage_from or time.monotonic()
                duration = format_duration(round(time.monotonic() - outage_from))
                message = f"The database does not answer: {reading} (for {duration}). The figures below are old."
                live.update(Group(Text(printable(message), style="bold red"), latest), refresh=True)
            else:
                latest, outage_from = draw(reading), None
                live.update(latest, refresh=True)


def _append(out: Console, readings: Iterator[Reading], draw: Draw | None) -> None:
    """Print each reading below the previous one. Print the start and the end of an outage on stderr."""
    is_outage = False
    for reading in readings:
        if isinstance(reading, ReactorError):
            if not is_outage:
                say(f"reactor: {reading.code}: {reading}; trying again", err=True)
            is_outage = True
            continue
        if is_outage:
            say("reactor: the database answers again", err=True)
        is_outage = False
        if draw is None:
            print_json(reading, indent=None)
            continue
        with out.capture() as drawn:  # click.echo raises BrokenPipeError when the pipe is closed; rich would exit 1
            out.print(draw(reading))
        print_text(drawn.get())
