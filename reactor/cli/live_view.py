"""What `reactor status --watch` draws: the live page's sections, in the same words, for a terminal."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from reactor.cli.live_api import ask
from reactor.core.health import TIME_LEFT_LABELS, Process, count_text, duration_text, headline, troubles
from reactor.core.settings import Settings

_HISTORY = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"


class LiveView:
    """Draws one reading after another, and remembers enough of them for their course."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due: deque[int] = deque(maxlen=_HISTORY)
        self._waiting: deque[int] = deque(maxlen=_HISTORY)

    def draw(self, seen: Mapping[str, Any]) -> Table:
        """Return what reactor.live_summary() said, and what the reactor beside us knows, as a table."""
        facts = self._facts(seen)
        process = None if facts is None else _process(facts)
        uploads, cap = seen["uploads"], int(seen["cap"])
        self._due.append(int(uploads["due"]))
        self._waiting.append(int(uploads["failed"]))
        found = troubles(seen, process)
        table = Table.grid(padding=(0, 2))
        table.add_row("state", headline(found), style="bold green" if not found else "bold red")
        for each in found:
            table.add_row("", _plain(each))
        age_s = float(uploads["oldest_due_age_s"])
        since = f" (the oldest for {duration_text(age_s)})" if age_s else ""
        table.add_row("uploads waiting", count_text(int(uploads["failed"]), cap) + course(self._waiting))
        table.add_row("  of them due", count_text(int(uploads["due"]), cap) + since + course(self._due))
        for name in ("uploading", "dead", "cancelled"):
            table.add_row(name, count_text(int(uploads[name]), cap))
        if uploads["about_all"] > cap:
            table.add_row("in all", f"about {uploads['about_all']:,} (PostgreSQL's estimate)")
        for each in seen["dead"]:
            table.add_row("", _plain(f"{each['id']} {each['error_code']}: {each['error_message']}"))
        if facts is not None:
            _add_own(table, facts)
        _add_runs(table, seen["runs"], cap)
        refused = seen["quota_rejections"]
        table.add_row("refused by quota", f"{sum(int(each['last_hour']) for each in refused)} in the last hour")
        for each in refused:
            table.add_row(f"  {each['quota']}, plan {_plain(each['plan'])}", str(each["last_hour"]))
        reactors = seen["reactors"]
        table.add_row("reactors", str(len(reactors)) if reactors else "none has left a sign of life")
        for each in reactors:
            words = f"{each['mode']}, seen {duration_text(each['seen_s_ago'])} ago, version {each['version']}"
            table.add_row(f"  {_plain(each['host'])}", _plain(words))
        table.add_row("notification queue", f"{float(seen['notification_queue_usage']):.2%} full")
        return table

    def _facts(self, seen: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the reactor beside us says, if it works for the database that was read."""
        facts = ask(self._settings)
        if facts is None or not isinstance(facts.get("database"), dict):
            return None
        theirs = {each["id"] for each in facts["database"].get("reactors", ())}
        return facts if theirs & {each["id"] for each in seen["reactors"]} else None


def course(figures: Iterable[int]) -> str:
    """Return a row of blocks for figures over time; nothing while there are only zeros, or one."""
    values = list(figures)
    most = max(values, default=0)
    if most == 0 or len(values) < 2:  # noqa: PLR2004  # one figure has no course
        return ""
    return "  " + "".join(_BLOCKS[-(-value * (len(_BLOCKS) - 1) // most)] for value in values)


def _process(facts: Mapping[str, Any]) -> Process | None:
    try:
        return Process(**facts["process"])
    except (KeyError, TypeError):  # another version's words
        return None


def _add_own(table: Table, facts: Mapping[str, Any]) -> None:
    reaction, reconcile, wheel = facts["reaction_s"], facts["reconcile"], facts["wheel"]
    if reaction["p50"] is not None:
        words = f"{1000 * reaction['p50']:,.1f} ms, 95 of 100 within {1000 * reaction['p95']:,.1f} ms"
        table.add_row("reaction", f"half within {words} ({reaction['count']:,} attempts)")
    spread: Sequence[int] = wheel["about"]
    table.add_row("timer wheel", f"{sum(spread):,} within {duration_text(wheel['span_s'])}{course(spread)}")
    if reconcile["ago_s"] is not None:
        missed = ", ".join(f"{count:,} {kind}" for kind, count in reconcile["missed"].items()) or "nothing missed"
        table.add_row("reconciled", f"{duration_text(reconcile['ago_s'])} ago, {missed}")


def _add_runs(table: Table, runs: Mapping[str, Any], cap: int) -> None:
    table.add_row("runs running", count_text(int(runs["running"]), cap))
    if runs["stale"]:
        table.add_row("  stale", f"{runs['stale']}: no reactor has failed them yet")
    for name, words in TIME_LEFT_LABELS.items():
        if runs[name]:
            table.add_row(f"  {words} left", f"{runs[name]:,}")


def _plain(text: str) -> str:
    """Return text that a terminal can't take for commands."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
