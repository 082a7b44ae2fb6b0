"""Describes the health of the reactor and its queue in sentences: what is wrong, and since when.

The live page and `reactor status --watch` show the same sentences. The functions make them from the object that
reactor.live_summary() returns, and from a `Process`, which is None if no reactor answered.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve

from reactor.core.breakers import OpenBreaker
from reactor.core.counted import counted
from reactor.core.durations import duration_text
from reactor.core.errors import TAKES_NO_WRITES
from reactor.core.fleet import fleet_troubles, running
from reactor.core.process import Fault, Process
from reactor.core.refusal import Guard, Scope

OVERDUE_FROM_S: Final = 60.0
"""Uploads that have been due for longer than this are reported."""

LAG_FROM_S: Final = 1.0
"""Timers that fire at least this late are reported."""

SPANS_LOST_WITHIN_S: Final = 600.0
"""Lost spans are reported for this long after the last loss."""

FREE_BELOW_BYTES: Final = 1 << 30
"""A spool with less free space than this is reported."""

QUEUE_FULL_FROM: Final = 0.5
"""The usage of the server's notification queue (0 to 1) at which the SQL functions stop sending notifications.
Source: schema/functions/lib_send_hints.sql and worker_report_presence.sql."""

NOT_LISTENING: Final = "not listening"
POLLED: Final = "polling: notifications don't arrive"
NOT_RECONCILED: Final = "not reconciled yet"
_CONSEQUENCES: Final = (POLLED, NOT_LISTENING, NOT_RECONCILED)
"""Reasons for not being ready that may have a cause, in the order in which /readyz lists them."""

_SHUTTING_DOWN: Final = "shutting down"
_REFUSAL_BEGINS: Final = tuple(f"The {kind} " for kind in Guard)
"""Beginnings of `shared_refusal`."""

_SHOWN_FROM_S: Final = 2.0
"""A call to a database that answers is reported when it has failed for this long. One failure is no trouble."""

TIME_LEFT_LABELS: Final[Mapping[str, str]] = {
    "within_1m": "up to 1 min",
    "within_5m": "up to 5 min",
    "within_15m": "up to 15 min",
    "later": "more",
    "unbounded": "no limit",
}
"""Labels of the time that runs have left. reactor.live_summary() counts the runs under these keys."""


def count_text(count: int, cap: int) -> str:
    """Return a count for people: "more than" the cap for a count above `cap`, where counting stopped."""
    return f"more than {cap:,}" if count > cap else f"{count:,}"


def troubles(database: Mapping[str, Any] | None, process: Process | None) -> list[str]:
    """Return a sentence for each thing that is wrong, causes first. What a stated cause explains is left out.

    `database` is reactor.live_summary(); None when the database does not answer.
    """
    found = _of_database(database, process)
    if process is not None:
        found += [_of_breaker(opened, open_for_s) for opened, open_for_s in process.open_breakers]
        found += _of_process(process)
    if database is None:
        return found
    found += _of_queue(database)
    if not _is_cut_off(process):
        is_full = _is_queue_full(database)
        if process is not None and not (process.mode == "polling" and is_full):
            found += _of_mode(process)
        own_id = None if process is None else process.instance
        found += fleet_troubles(database["reactors"], own_id=own_id, is_polling_explained=is_full)
        found += _of_waiting_work(database, process)
    return found + _of_dead_uploads(database["uploads"], int(database["cap"]))


def reasons_by_cause(reasons: Sequence[str], fault: Fault | None, listener_reason: str) -> list[str]:
    """Return the reasons for not being ready, causes first.

    If something else than a shared refusal keeps the reactor from being ready, and no reason says what, adds `fault`,
    or `listener_reason`: why the reactor doesn't listen.
    """
    effects = [reason for reason in _CONSEQUENCES if reason in reasons]
    refusals = [reason for reason in reasons if reason.startswith(_REFUSAL_BEGINS)]
    causes = [reason for reason in reasons if reason not in effects and reason not in refusals]
    if effects and not {*causes} - {_SHUTTING_DOWN}:
        if fault is not None:
            causes.append(_cause(fault))
        elif listener_reason and effects != [NOT_RECONCILED]:
            failing = "no test notification comes back" if POLLED in effects else "the reactor can't listen"
            causes.append(f"{failing}: {listener_reason}")
    return causes + refusals + effects


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


def _of_database(database: Mapping[str, Any] | None, process: Process | None) -> list[str]:
    """Return the trouble with the database in one sentence, if there is any."""
    fault = None if process is None else process.fault
    if fault is not None and database is None:
        fault = evolve(fault, is_outage=True)
    # a listening connection that can't be opened is the reason of the mode
    if fault is not None and (fault.is_outage or (fault.lasts_s >= _SHOWN_FROM_S and fault.doing != "listen")):
        effect = " Nothing is stored until it takes writes again." if fault.reason.startswith(TAKES_NO_WRITES) else ""
        age = " The figures below may be old." if database is None else ""
        return [f"{_capitalised(_cause(fault))} (for {duration_text(fault.lasts_s)}).{effect}{age}"]
    if database is None:
        return ["The database does not answer: the figures below may be old."]
    return [] if process is None else [f"Not ready: {reason}." for reason in _reasons_of_database(process)]


def _is_cut_off(process: Process | None) -> bool:
    """Return whether the database does no work for the reactor. Then it isn't listening, and nothing is stored."""
    if process is None or process.fault is None:
        return process is not None and bool(_reasons_of_database(process))
    return process.fault.is_outage


def _reasons_of_database(process: Process) -> list[str]:
    others = {*_CONSEQUENCES, _SHUTTING_DOWN}
    return [each for each in process.not_ready if each not in others and not each.startswith(_REFUSAL_BEGINS)]


def _cause(fault: Fault) -> str:
    if fault.reason.startswith(TAKES_NO_WRITES):
        return fault.reason
    if fault.is_outage:
        return f"the database does not answer: {fault.reason}"
    return f"the reactor can't {fault.doing}: {fault.reason}"


def _of_mode(process: Process) -> list[str]:
    since = duration_text(process.mode_for_s)
    why = f" ({process.mode_reason})" if process.mode_reason else ""
    if process.mode == "polling":
        return [f"Notifications have not arrived for {since}{why}: the reactor polls the database every 2 s."]
    if process.mode != "listening":
        return [f"The reactor has not listened for {since}{why}: only reconciliation finds failed uploads."]
    return [f"Not ready: {reason}." for reason in process.not_ready if reason == NOT_RECONCILED]


def _of_process(process: Process) -> list[str]:
    found = [
        f"The database refuses {counted(count, name.removesuffix('s'))}: {reason}. "
        "Each is tried again, at growing intervals."
        for name, (count, reason) in process.refused.items()
    ]
    if process.spool_free_bytes is not None and process.spool_free_bytes < FREE_BELOW_BYTES:
        free = f"{process.spool_free_bytes / (1 << 20):,.0f} MiB"
        found.append(f"A spool has only {free} free: new failed uploads may be lost.")
    if process.lag_s >= LAG_FROM_S:
        found.append(f"Timers fire {process.lag_s:.1f} s late: this process has too much work or too little CPU.")
    if process.spans_lost and process.spans_lost_ago_s < SPANS_LOST_WITHIN_S:
        which = "1 span was lost" if process.spans_lost == 1 else f"{process.spans_lost:,} spans were lost, the last"
        found.append(f"{which} {duration_text(process.spans_lost_ago_s)} ago: traces have gaps. No upload is affected.")
    return found


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def _of_breaker(opened: OpenBreaker, open_for_s: float) -> str:
    kind, name = opened.place
    since = duration_text(open_for_s)
    if opened.refusal.scope is not Scope.SHARED:
        state = "down" if opened.is_for_all else "failing for some users"
        return f"The {kind} {name} has been {state} for {since}: the uploads wait and keep their retries."
    check = f" Check {opened.refusal.check}." if opened.refusal.check else ""
    return f"{shared_refusal(opened)} for {since}: the uploads wait and keep their retries.{check}"


def _is_queue_full(database: Mapping[str, Any]) -> bool:
    return float(database["notification_queue_usage"]) >= QUEUE_FULL_FROM


def _of_queue(database: Mapping[str, Any]) -> list[str]:
    if not _is_queue_full(database):
        return []
    usage = f"{float(database['notification_queue_usage']):.0%}"
    return [f"The notification queue is {usage} full: a listening session does not read it, so the reactors poll."]


def _of_waiting_work(database: Mapping[str, Any], process: Process | None) -> list[str]:
    """Return what has waited too long, unless no reactor runs, or what stops it is stated already."""
    if process is None and not running(database["reactors"]):
        return []
    found = []
    uploads, cap = database["uploads"], int(database["cap"])
    overdue_s = float(uploads["oldest_due_age_s"])
    if overdue_s > OVERDUE_FROM_S and not (process is not None and _waits_for_cause(process)):
        found.append(f"{_uploads_for('overdue', int(uploads['due']), cap, overdue_s)}.")
    if expired := int(uploads["leases_expired"]):
        found.append(f"{_are(expired, cap, 'upload')} abandoned in an attempt: no reactor has taken over yet.")
    if (stale := int(database["runs"]["stale"])) and not _fails(process, "runs"):
        found.append(f"{_are(stale, cap, 'run')} stale: no reactor has failed {'it' if stale == 1 else 'them'} yet.")
    return found


def _waits_for_cause(process: Process) -> bool:
    """Return whether due uploads wait because the store or their claims fail, or because the reactor doesn't listen."""
    is_down = any(opened.place.kind is Guard.STORE and opened.is_for_all for opened, _ in process.open_breakers)
    return is_down or process.mode == "starting" or _fails(process, "uploads")


def _fails(process: Process | None, name: str) -> bool:
    """Return whether a stated fault is about claims or settlements of `name`: "uploads" or "runs"."""
    fault = None if process is None else process.fault
    return fault is not None and fault.lasts_s >= _SHOWN_FROM_S and fault.doing.endswith(name)


def _of_dead_uploads(uploads: Mapping[str, Any], cap: int) -> list[str]:
    dead = int(uploads["dead"])
    if not dead:
        return []
    which = _uploads_for("dead", dead, cap, uploads["dead_for_s"])
    return [f"{which}: retry, cancel or purge {'it' if dead == 1 else 'them'}."]


def _are(count: int, cap: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count_text(count, cap).capitalize()} {noun}s are"


def _uploads_for(state: str, count: int, cap: int, oldest_s: float | str | None) -> str:
    age = duration_text(oldest_s)
    if count == 1:
        return f"1 upload has been {state} for {age}"
    return f"{_are(count, cap, 'upload')} {state}, the oldest for {age}"
