"""Describes the health of the reactor and its queue in sentences: what is wrong, and since when.

The live page and `reactor status --watch` show the same sentences. The functions make them from the object that
reactor.live_summary() returns, and from a `Process`, which is None if no reactor answered.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve, frozen

from reactor.core.breakers import OpenBreaker
from reactor.core.durations import format_duration
from reactor.core.refusal import Scope

OVERDUE_FROM_S: Final = 60.0
"""Uploads that have been due for longer than this are reported."""

LAG_FROM_S: Final = 1.0
"""Timers that fire at least this late are reported."""

SPANS_LOST_WITHIN_S: Final = 600.0
"""Lost spans are reported for this long after the last loss."""

FREE_BELOW_BYTES: Final = 1 << 30
"""A spool with less free space than this is reported."""

SEEN_WITHIN_S: Final = 20.0
"""A reactor runs if it has reported its presence within this time. Reactors report every 13 s.
Source: schema/functions/lib_reactors.sql."""

GONE_SHOWN_S: Final = 600.0
"""A reactor that has stopped reporting is reported for this long."""

QUEUE_FULL_FROM: Final = 0.5
"""The usage of the server's notification queue (0 to 1) at which the SQL functions stop sending notifications.
Source: schema/functions/lib_send_hints.sql and worker_report_presence.sql."""

NOT_LISTENING: Final = "not listening"
POLLED: Final = "polling: notifications don't arrive"
"""Reasons in `Process.not_ready` that `troubles` skips, because `Process.mode` says the same."""

TIME_LEFT_LABELS: Final[Mapping[str, str]] = {
    "within_1m": "up to 1 min",
    "within_5m": "up to 5 min",
    "within_15m": "up to 15 min",
    "later": "more",
    "unbounded": "no limit",
}
"""Labels of the time that runs have left. reactor.live_summary() counts the runs under these keys."""

_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400


@frozen(kw_only=True)
class Process:
    """The state of one reactor."""

    mode: str
    """'starting', 'listening' or 'polling'."""

    mode_for_s: float
    """Seconds for which the reactor has been in this mode."""

    not_ready: Sequence[str]
    """Why the reactor is not ready, one line per reason."""

    open_breakers: Sequence[tuple[OpenBreaker, float]]
    """The stores, buckets and spools with an open circuit breaker, each with the seconds since it opened."""

    refused: Mapping[str, tuple[int, str]]
    """Maps each reaction with rows that the database refuses to their number and the database's message."""

    lag_s: float
    """The delay of timers in the last minutes, 95th percentile."""

    spool_free_bytes: int | None
    """Free space of the spool with the least free space; None when unknown."""

    spans_lost: int = 0
    """Number of spans that the collector has not received since the start."""

    spans_lost_ago_s: float = 0.0
    """Seconds since the last span was lost."""


def count_text(count: int, cap: int) -> str:
    """Return a count for people: "more than" the cap for a count above `cap`, where counting stopped."""
    return f"more than {cap:,}" if count > cap else f"{count:,}"


def duration_text(seconds: float | str | None) -> str:
    """Return a duration for people: in seconds below an hour, in minutes below a day, else in hours, rounded down."""
    total = max(0, int(float(seconds or 0)))
    unit = 1 if total < _HOUR_S else 60 if total < _DAY_S else _HOUR_S
    return format_duration(total - total % unit)


def troubles(database: Mapping[str, Any] | None, process: Process | None) -> list[str]:
    """Return a sentence for each thing that is wrong: first about the reactors, then about uploads and runs.

    `database` is reactor.live_summary(); None when the database does not answer.
    """
    if database is None:
        reasons = [] if process is None else process.not_ready
        cause = next((f" ({reason})" for reason in reasons if reason not in {NOT_LISTENING, POLLED}), "")
        # while the database doesn't answer, the reactor isn't listening either
        others = [] if process is None else _of_process(evolve(process, mode="listening", not_ready=()))
        return [f"The database does not answer{cause}: the figures below may be old.", *others]
    found = [] if process is None else _of_process(process)
    return found + _of_reactors(database["reactors"], process) + _of_work(database)


def shared_refusal(opened: OpenBreaker) -> str:
    """Return in one sentence, without its end, which place refuses the reactor, and the place's own code."""
    kind, name = opened.place
    reason = f" ({opened.refusal.reason})" if opened.refusal.reason else ""
    return f"The {kind} {name} has refused the reactor with {opened.code}{reason}"


def headline(found: Sequence[str]) -> str:
    """Return the state in a few words."""
    if not found:
        return "All is well."
    return "One thing is wrong." if len(found) == 1 else f"{len(found)} things are wrong."


def _of_process(process: Process) -> list[str]:
    # the cause first: while calls to the database fail, the reactor isn't listening either
    found = [_of_breaker(opened, open_for_s) for opened, open_for_s in process.open_breakers]
    shown = {NOT_LISTENING, POLLED, *(shared_refusal(opened) for opened, _ in process.open_breakers)}
    found += [f"Not ready: {reason}." for reason in process.not_ready if reason not in shown]
    since = duration_text(process.mode_for_s)
    if process.mode == "polling":
        found.append(f"Notifications have not arrived for {since}: the reactor polls the database every 2 s.")
    elif process.mode != "listening":
        found.append(f"The reactor has not listened for {since}: only reconciliation finds failed uploads.")
    found += [
        f"The database refuses {_count(count, name)}: {reason}. Each is tried again, at growing intervals."
        for name, (count, reason) in process.refused.items()
    ]
    if process.lag_s >= LAG_FROM_S:
        found.append(f"Timers fire {process.lag_s:.1f} s late: this process has too much work or too little CPU.")
    if process.spool_free_bytes is not None and process.spool_free_bytes < FREE_BELOW_BYTES:
        free = f"{process.spool_free_bytes / (1 << 20):,.0f} MiB"
        found.append(f"A spool has only {free} free: new failed uploads may be lost.")
    if process.spans_lost and process.spans_lost_ago_s < SPANS_LOST_WITHIN_S:
        which = "1 span was lost" if process.spans_lost == 1 else f"{process.spans_lost:,} spans were lost, the last"
        found.append(f"{which} {duration_text(process.spans_lost_ago_s)} ago: traces have gaps. No upload is affected.")
    return found


def _of_breaker(opened: OpenBreaker, open_for_s: float) -> str:
    kind, name = opened.place
    since = duration_text(open_for_s)
    if opened.refusal.scope is not Scope.SHARED:
        state = "down" if opened.is_for_all else "failing for some users"
        return f"The {kind} {name} has been {state} for {since}: the uploads wait and keep their retries."
    check = f" Check {opened.refusal.check}." if opened.refusal.check else ""
    return f"{shared_refusal(opened)} for {since}: the uploads wait and keep their retries.{check}"


def _of_reactors(reactors: Sequence[Mapping[str, Any]], process: Process | None) -> list[str]:
    """Return the troubles of the fleet. What `process` reports of itself isn't repeated."""
    if not reactors and process is None:
        return ["No reactor is running."]
    running = [each for each in reactors if float(each["seen_s_ago"]) <= SEEN_WITHIN_S]
    if not running and process is None:
        return [f"No reactor has reported for {duration_text(min(float(each['seen_s_ago']) for each in reactors))}."]
    found = []
    own = int(process is not None and process.mode == "polling")
    if (polling := sum(each["mode"] == "polling" for each in running) - own) > 0:
        verbs = "receives no notifications and polls" if polling == 1 else "receive no notifications and poll"
        found.append(f"{polling} of {len(running)} reactors {verbs} the database.")
    found += [
        f"Reactor {reactor_name(each)} has not reported for {duration_text(each['seen_s_ago'])}: was it stopped?"
        for each in reactors
        if SEEN_WITHIN_S < float(each["seen_s_ago"]) <= GONE_SHOWN_S
    ]
    return found


def reactor_name(reactor: Mapping[str, Any]) -> str:
    """Return the name of a reactor for people: its host, HTTP port and process."""
    port = f":{reactor['port']}" if reactor.get("port") else ""
    process = f" (process {reactor['pid']})" if reactor.get("pid") else ""
    return f"{reactor['host']}{port}{process}"


def _count(count: int, plural: str) -> str:
    return f"1 {plural.removesuffix('s')}" if count == 1 else f"{count:,} {plural}"


def _of_work(database: Mapping[str, Any]) -> list[str]:
    found = []
    uploads, cap = database["uploads"], int(database["cap"])
    overdue_s, usage = float(uploads["oldest_due_age_s"]), float(database["notification_queue_usage"])
    if overdue_s > OVERDUE_FROM_S:
        found.append(f"{_uploads_for('overdue', int(uploads['due']), cap, overdue_s)}.")
    if expired := int(uploads["leases_expired"]):
        found.append(f"{_are(expired, cap, 'upload')} abandoned in an attempt: no reactor has taken over yet.")
    if dead := int(uploads["dead"]):
        which = _uploads_for("dead", dead, cap, uploads["dead_for_s"])
        found.append(f"{which}: retry, cancel or purge {'it' if dead == 1 else 'them'}.")
    if stale := int(database["runs"]["stale"]):
        found.append(f"{_are(stale, cap, 'run')} stale: no reactor has failed {'it' if stale == 1 else 'them'} yet.")
    if usage >= QUEUE_FULL_FROM:
        found.append(f"The notification queue is {usage:.0%} full: a listening session does not read it.")
    return found


def _are(count: int, cap: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count_text(count, cap).capitalize()} {noun}s are"


def _uploads_for(state: str, count: int, cap: int, oldest_s: float | str | None) -> str:
    age = duration_text(oldest_s)
    if count == 1:
        return f"1 upload has been {state} for {age}"
    return f"{_are(count, cap, 'upload')} {state}, the oldest for {age}"
