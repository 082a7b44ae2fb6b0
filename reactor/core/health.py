"""How the reactor and its queue are, in words: all well, or what is wrong and since when.

One place for the words, whoever shows them: the live page and `reactor status --watch`. What the database says is
reactor.live_summary()'s object; what a reactor knows of itself is a `Process`, None where nobody could be asked.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from reactor.core.durations import format_duration

LATE_AFTER_S: Final = 60.0
"""How long an upload may be due before that is said: a full round of attempts takes less."""

LAG_FROM_S: Final = 1.0
"""How late timers may fire before that is said."""

ROOM_FROM_BYTES: Final = 1 << 30
"""How much room a spool should have left."""

SILENT_AFTER_S: Final = 30.0
"""How long ago a reactor may have been seen last."""

QUEUE_FULL_FROM: Final = 0.5
"""How full the server's notification queue must be for the triggers to say nothing, and for no presence to be sent:
schema/functions/lib_send_hints.sql and worker_report_presence.sql."""

NOT_LISTENING: Final = "not listening"
POLLED: Final = "polling: notifications don't arrive"
"""Reasons of not being ready that a `Process` tells by its mode already."""

TIMES_LEFT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "within_1m": "up to 1 min",
        "within_5m": "up to 5 min",
        "within_15m": "up to 15 min",
        "later": "more",
        "unbounded": "no limit",
    }
)
"""What a run has left, in words, by reactor.live_summary()'s name for it."""

_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


@frozen(kw_only=True)
class Process:
    """What one reactor knows of itself."""

    mode: str
    """'starting', 'listening' or 'polling'."""

    mode_for_s: float
    """For how long it has been so."""

    not_ready: Sequence[str]
    """Why it isn't ready, a line each."""

    open_stores: Mapping[str, float]
    """For how many seconds the breaker of each store has been open, by the store's name."""

    lag_s: float
    """How late timers fired, 95 of 100, in the last minutes."""

    spool_free_bytes: int | None
    """Room in the fullest spool; None when it can't be told."""


def about(count: int, cap: int) -> str:
    """Return a figure that nobody counted beyond `cap`."""
    return f"more than {cap:,}" if count > cap else f"{count:,}"


def span(seconds: float | str | None) -> str:
    """Return a duration for people: seconds below an hour, minutes below a day, hours beyond."""
    total = max(0, int(float(seconds or 0)))
    unit = 1 if total < _HOUR_S else 60 if total < _DAY_S else _HOUR_S
    return format_duration(total - total % unit)


def troubles(database: Mapping[str, Any] | None, process: Process | None) -> list[str]:
    """Return what is wrong, a sentence each, the gravest first; empty when all is well."""
    found: list[str] = []
    if process is not None:
        found += _of_process(process)
    if database is None:
        found.append("The database doesn't answer: what is shown below may be old.")
        return found
    found += _of_reactors(database["reactors"], is_one_here=process is not None)
    found += _of_work(database)
    return found


def headline(found: Sequence[str]) -> str:
    """Return the state in a few words."""
    if not found:
        return "All is well."
    return "One thing is wrong." if len(found) == 1 else f"{len(found)} things are wrong."


def _of_process(process: Process) -> list[str]:
    found = []
    since = span(process.mode_for_s)
    if process.mode == "polling":
        found.append(f"Notifications haven't arrived for {since}: the database is polled every 2 s instead.")
    elif process.mode != "listening":
        found.append(f"Not listening for {since}: failed uploads are found by reconciliation alone.")
    found += [f"Not ready: {reason}." for reason in process.not_ready if reason not in {NOT_LISTENING, POLLED}]
    found += [
        f"The store {store} has been down for everyone for {span(open_for_s)}: uploads wait, no tries are spent."
        for store, open_for_s in process.open_stores.items()
    ]
    if process.lag_s >= LAG_FROM_S:
        found.append(f"Timers fire {process.lag_s:.1f} s late: this process has too much to do, or too little CPU.")
    if process.spool_free_bytes is not None and process.spool_free_bytes < ROOM_FROM_BYTES:
        left = f"{process.spool_free_bytes / (1 << 20):,.0f} MiB"
        found.append(f"A spool has {left} left: new failed uploads may be lost.")
    return found


def _of_reactors(reactors: Sequence[Mapping[str, Any]], *, is_one_here: bool) -> list[str]:
    alive = [each for each in reactors if float(each["seen_s_ago"]) <= SILENT_AFTER_S]
    if not alive:
        if is_one_here:
            return []  # its own state tells why
        seen = min((float(each["seen_s_ago"]) for each in reactors), default=None)
        return ["No reactor runs." if seen is None else f"No reactor has been seen for {span(seen)}."]
    deaf = [each for each in alive if each["mode"] == "polling"]
    if deaf and not is_one_here:
        return [f"{len(deaf)} of {len(alive)} reactors hear no notifications, and poll instead."]
    return []


def _of_work(database: Mapping[str, Any]) -> list[str]:
    found = []
    uploads, runs, cap = database["uploads"], database["runs"], int(database["cap"])
    age_s = float(uploads["oldest_due_age_s"])
    if age_s > LATE_AFTER_S:
        due = int(uploads["due"])
        words = "An upload is" if due == 1 else f"{about(due, cap).capitalize()} uploads are"
        found.append(f"{words} overdue, the oldest for {span(age_s)}.")
    if uploads["leases_expired"]:
        words = about(int(uploads["leases_expired"]), cap).capitalize()
        found.append(f"{words} abandoned in mid-attempt: no reactor has taken over yet.")
    if uploads["dead"]:
        dead = int(uploads["dead"])
        words = "One upload has" if dead == 1 else f"{about(dead, cap).capitalize()} uploads have"
        since = span(uploads["dead_for_s"])
        found.append(f"{words} been given up, {'' if dead == 1 else 'the first '}{since} ago: retry, cancel or purge.")
    if stale := int(runs["stale"]):
        words = "One run is" if stale == 1 else f"{about(stale, cap).capitalize()} runs are"
        found.append(f"{words} stale: no reactor has failed {'it' if stale == 1 else 'them'} yet.")
    usage = float(database["notification_queue_usage"])
    if usage >= QUEUE_FULL_FROM:
        found.append(f"The notification queue is {usage:.0%} full: a session that listens doesn't read.")
    return found
