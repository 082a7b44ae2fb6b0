"""Draws the content of the live page as a table, for `reactor status --watch`."""

import json
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from reactor.cli.output import PrintableTable
from reactor.cli.status_table import add_common_rows, add_stale_runs
from reactor.core.counted import counted
from reactor.core.durations import duration_text
from reactor.core.health import TIME_LEFT_LABELS, count_text, headline, troubles
from reactor.core.settings import Settings

_TIMEOUT_S = 0.5
_SIZE_LIMIT_BYTES = 1 << 20
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - addresses to listen on, not to connect to
_HISTORY_LENGTH = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"


class LiveView:
    """Draws readings. Keeps the last 60 counts of waiting uploads and of due uploads for the sparklines."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due: deque[int] = deque(maxlen=_HISTORY_LENGTH)
        self._waiting: deque[int] = deque(maxlen=_HISTORY_LENGTH)

    def draw(self, summary: Mapping[str, Any]) -> Table:
        """Return the result of reactor.live_summary() as a table, with the live API's figures if a reactor responds."""
        live = self.live_reactor(summary)
        uploads, runs, cap = summary["uploads"], summary["runs"], int(summary["cap"])
        self._due.append(int(uploads["due"]))
        self._waiting.append(int(uploads["failed"]))
        found = troubles(summary, None) if live is None else live["troubles"]
        table = PrintableTable.grid(padding=(0, 2))
        table.add_row("state", headline(found), style="bold green" if not found else "bold red")
        for trouble in found:
            table.add_row("", trouble)
        age_s = float(uploads["oldest_due_age_s"])
        oldest = f" (oldest: {duration_text(age_s)})" if age_s else ""
        table.add_row("uploads waiting", count_text(int(uploads["failed"]), cap) + sparkline(self._waiting))
        table.add_row("  of them due", count_text(int(uploads["due"]), cap) + oldest + sparkline(self._due))
        for name in ("uploading", "dead", "cancelled"):
            table.add_row(name, count_text(int(uploads[name]), cap))
        if uploads["about_all"] > cap:
            table.add_row("in all", f"about {uploads['about_all']:,} (PostgreSQL's estimate)")
        for dead in summary["dead"]:
            table.add_row("", f"{dead['id']} {dead['error_code']}: {dead['error_message']}")
        if live is not None:
            _add_live_figures(table, live)
        table.add_row("runs running", count_text(int(runs["running"]), cap))
        add_stale_runs(table, runs)
        for name, time_left in TIME_LEFT_LABELS.items():
            if runs[name]:
                table.add_row(f"  {time_left} left", f"{runs[name]:,}")
        add_common_rows(table, summary)
        return table

    def live_reactor(self, summary: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the live API's response; None if no reactor responds, or if the reactor uses another database."""
        live = _fetch_live(self._settings)
        if not isinstance(live, dict) or not isinstance(live.get("process"), dict) or "troubles" not in live:
            return None
        return live if live["process"].get("instance") in {each["id"] for each in summary["reactors"]} else None


def _fetch_live(settings: Settings) -> Any:
    """Return the response to GET /api/live at the configured host and port; None if no reactor responds."""
    if settings.http_port == 0:
        return None  # the reactor chose a free port, which is not known here
    host = _LOOPBACK_OF.get(settings.http_host, settings.http_host)
    address = f"http://{f'[{host}]' if ':' in host else host}:{settings.http_port}/api/live"
    headers = {"Authorization": f"Bearer {settings.http_token}"} if settings.http_token else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S) as response:
            return json.loads(response.read(_SIZE_LIMIT_BYTES))
    except (OSError, ValueError):  # no server listens there, or the server is not a reactor
        return None


def sparkline(figures: Iterable[int]) -> str:
    """Return figures over time as a line of block characters; "" for less than two figures, or if all are 0."""
    values = list(figures)
    highest = max(values, default=0)
    if highest == 0 or len(values) < 2:  # noqa: PLR2004  # a line needs two figures
        return ""
    return "  " + "".join(_BLOCKS[-(-value * (len(_BLOCKS) - 1) // highest)] for value in values)


def _add_live_figures(table: Table, live: Mapping[str, Any]) -> None:
    reaction, reconcile, wheel = live["reaction_s"], live["reconcile"], live["wheel"]
    if reaction["p50"] is not None:
        figures = f"p50 {1000 * reaction['p50']:,.1f} ms, p95 {1000 * reaction['p95']:,.1f} ms"
        table.add_row("reaction", f"{figures} ({counted(reaction['count'], 'attempt')})")
    counts: Sequence[int] = wheel["about"]
    table.add_row("timer wheel", f"{sum(counts):,} within {duration_text(wheel['span_s'])}{sparkline(counts)}")
    if reconcile["ago_s"] is not None:
        missed = ", ".join(f"{count:,} {kind}" for kind, count in reconcile["missed"].items()) or "nothing missed"
        table.add_row("reconciled", f"{duration_text(reconcile['ago_s'])} ago, {missed}")
