"""The demo's output: a live table on a terminal, plain lines in a pipe, and a summary at the end."""

from collections import Counter, deque
from math import inf
from statistics import quantiles
from time import monotonic
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from reactor.core import events
from reactor.core.counted import counted
from reactor.core.model import Verdict
from reactor.core.printable import printable

_LINES_SHOWN = 12


class DemoView:
    """Counts and shows the reactor's events. As a context manager, it shows the live table until the block ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._counts: Counter[str] = Counter()  # settled attempts by verdict, and failed runs
        self._dead_codes: Counter[str] = Counter()
        self._reactions_ms: list[float] = []  # from due time to first attempt, except for uploads due in an outage
        self._lateness_ms: list[float] = []  # from a run's deadline until it was failed
        self._retried: set[object] = set()
        self._delayed_by_outage = 0
        self._outages: list[list[float]] = []  # monotonic() of start and end; the end is inf during the outage
        self._lines: deque[str] = deque(maxlen=_LINES_SHOWN)
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def print_line(self, line: str) -> None:
        """Show a line, with unprintable characters replaced: in the live table on a terminal, else on stdout."""
        line = printable(line)
        if self._live is not None:
            self._lines.append(line)
        else:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, event: events.Event) -> None:
        """Count and show an event of the reactor."""
        match event:
            case events.Listening():
                self.print_line("listening: failed uploads are notified as they commit")
            case events.AttemptsStarted():
                for started in event.attempts:
                    self._count_started(started)
            case events.AttemptsSettled():
                for settled in event.attempts:
                    self._show_settled(settled)
            case events.RunExpired():
                self._counts["runs failed"] += 1
                self._lateness_ms.append(event.late_s * 1000)
                late = f"{event.late_s * 1000:.0f} ms after its deadline"
                self.print_line(f"run     {event.run_id.hex[:8]} failed {late}: {event.code}")
            case events.BreakerMoved(opened=None):
                self._outages[-1][1] = monotonic()
                self.print_line("store   answers again: uploads continue")
            case events.BreakerMoved():
                self._outages.append([monotonic(), inf])
                self.print_line("store   is down: uploads wait and use no attempts")

    def _count_started(self, event: events.AttemptStarted) -> None:
        if event.attempt > 1:
            return
        due_at = monotonic() - event.lag_s
        if any(start <= due_at <= end for start, end in self._outages):
            self._delayed_by_outage += 1
        else:
            self._reactions_ms.append(event.lag_s * 1000)

    def _show_settled(self, event: events.AttemptSettled) -> None:
        outcome = event.outcome
        self._counts[outcome.verdict] += 1
        prefix = f"upload  {event.upload_id.hex[:8]} attempt {event.trail.attempt}"
        match outcome.verdict:
            case Verdict.STORED:
                self.print_line(
                    f"{prefix}: stored {counted(event.trail.size_bytes, 'byte')} in {event.put_s * 1000:.0f} ms"
                )
            case Verdict.RETRY:
                self._retried.add(event.upload_id)
                self.print_line(f"{prefix}: failed, next attempt in {outcome.delay_s:.1f} s: {outcome.message}")
            case Verdict.DEAD:
                self._dead_codes[outcome.code or ""] += 1
                self.print_line(f"{prefix}: dead: {outcome.code}: {outcome.message}")
            case Verdict.DEFERRED:
                pass

    def _render(self) -> Group:
        names = ("stored", "retry", "dead", "deferred", "runs failed")
        counts = "   ".join(f"{name} [bold]{self._counts[name]}[/bold]" for name in names)
        return Group(counts, "", *map(escape, self._lines))

    def print_summary(self, store_url: str, elapsed_s: float) -> None:
        """Print the totals and the latencies."""
        table = Table.grid(padding=(0, 2))
        table.add_row("stored", str(self._counts[Verdict.STORED]))
        table.add_row(
            "retried", f"{counted(len(self._retried), 'upload')}, {counted(self._counts[Verdict.RETRY], 'time')}"
        )
        table.add_row(
            "deferred", f"{counted(self._counts[Verdict.DEFERRED], 'attempt')}, not counted, while the store was down"
        )
        codes = ", ".join(f"{count} {code}" for code, count in sorted(self._dead_codes.items()))
        table.add_row("dead", f"{self._counts[Verdict.DEAD]} ({codes})")
        table.add_row("runs failed", f"{self._counts['runs failed']}, {_percentiles(self._lateness_ms)} late")
        table.add_row("reaction", f"{_percentiles(self._reactions_ms)} from the app's commit to the attempt's start")
        table.add_row("", f"({self._delayed_by_outage} more uploads came while the store was down, and waited for it)")
        self._console.print(f"\nIn {elapsed_s:.1f} s, into {store_url}:")
        self._console.print(table, highlight=False, soft_wrap=True)


def _percentiles(values_ms: list[float]) -> str:
    if len(values_ms) < 2:  # noqa: PLR2004  # quantiles() needs two values
        return "(too few values)"
    cuts = quantiles(values_ms, n=100, method="inclusive")
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"
