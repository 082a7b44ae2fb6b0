"""What the demo shows: a live table on a terminal, plain lines in a pipe, and a summary at the end."""

from collections import Counter, deque
from math import inf
from statistics import quantiles
from time import monotonic
from typing import Any, Self

from attrs import define, field
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from reactor.core.events import (
    AttemptSettled,
    AttemptsSettled,
    AttemptsStarted,
    AttemptStarted,
    BreakerMoved,
    Event,
    Listening,
    RunExpired,
)
from reactor.core.model import Verdict

_LINES = 12


@define
class View:
    """Hears what happens and shows it."""

    console: Console
    counts: Counter[str] = field(factory=Counter)
    reasons: Counter[str] = field(factory=Counter)
    reactions_ms: list[float] = field(factory=list)
    lateness_ms: list[float] = field(factory=list)
    retried: set[Any] = field(factory=set)
    kept_waiting: int = 0
    """Uploads that came due while the store was down: they waited for it, not for the reactor."""
    _outages: list[list[float]] = field(factory=list)
    _lines: deque[str] = field(factory=lambda: deque(maxlen=_LINES))
    _live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self.console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        """Show one line of what happens."""
        if self._live is not None:
            self._lines.append(line)
        else:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def hear(self, event: Event) -> None:
        match event:
            case Listening():
                self.say("listening: failed uploads are heard as they commit")
            case AttemptsStarted():
                for started in event.attempts:
                    self._hear_started(started)
            case AttemptsSettled():
                for settled in event.attempts:
                    self._hear_settled(settled)
            case RunExpired():
                self.counts["runs failed"] += 1
                self.lateness_ms.append(event.late_s * 1000)
                self.say(f"run     {event.run_id.hex[:8]} failed {event.late_s * 1000:.0f} ms late: {event.code}")
            case BreakerMoved(is_open=True):
                self._outages.append([monotonic(), inf])
                self.say("store   is down for everyone: the rest waits, no tries are spent")
            case BreakerMoved(is_open=False):
                self._outages[-1][1] = monotonic()
                self.say("store   answers again: the rest goes on")
            case _:
                pass

    def _hear_started(self, event: AttemptStarted) -> None:
        if event.attempt > 1:
            return
        due = monotonic() - event.lag_s
        if any(began <= due <= ended for began, ended in self._outages):
            self.kept_waiting += 1
        else:
            self.reactions_ms.append(event.lag_s * 1000)

    def _hear_settled(self, event: AttemptSettled) -> None:
        self.counts[event.verdict] += 1
        name = f"upload  {event.upload_id.hex[:8]} try {event.attempt}"
        match event.verdict:
            case Verdict.STORED:
                self.say(f"{name}: stored {event.trail.size_bytes:,} bytes in {event.duration_s * 1000:.0f} ms")
            case Verdict.RETRY:
                self.retried.add(event.upload_id)
                self.say(f"{name}: failed, again in {event.delay_s:.1f} s: {event.message}")
            case Verdict.DEAD:
                self.reasons[event.code or ""] += 1
                self.say(f"{name}: dead: {event.code}: {event.message}")
            case Verdict.DEFERRED:
                pass

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 3))
        names = ("stored", "retry", "dead", "deferred", "runs failed")
        table.add_row(*(f"{name} [bold]{self.counts[name]}[/bold]" for name in names))
        return Group(table, "", *(line.replace("[", "\\[") for line in self._lines))

    def summarise(self, url: str, seconds: float) -> None:
        """Print what came of it all."""
        table = Table.grid(padding=(0, 2))
        table.add_row("stored", str(self.counts[Verdict.STORED]))
        table.add_row("retried", f"{len(self.retried)} uploads, {self.counts[Verdict.RETRY]} times")
        table.add_row("handed back", f"{self.counts[Verdict.DEFERRED]} times, unspent, while the store was down")
        dead = ", ".join(f"{count} {code}" for code, count in sorted(self.reasons.items()))
        table.add_row("dead", f"{self.counts[Verdict.DEAD]} ({dead})")
        table.add_row("runs failed", f"{self.counts['runs failed']}, late by {_spread(self.lateness_ms)}")
        table.add_row("reaction", f"{_spread(self.reactions_ms)} from the app's write to the attempt's start")
        table.add_row("", f"({self.kept_waiting} more came while the store was down, and waited for it)")
        self.console.print(f"\nIn {seconds:.1f} s on {url}:")
        self.console.print(table, highlight=False, soft_wrap=True)


def _spread(values_ms: list[float]) -> str:
    if len(values_ms) < 2:  # noqa: PLR2004  # quantiles need two
        return "too few to tell"
    cuts = quantiles(values_ms, n=100, method="inclusive")
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"
