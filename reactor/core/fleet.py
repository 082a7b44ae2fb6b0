"""Describes the reactors that share a database: their names, and which of them are silent or poll."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from reactor.core.durations import duration_text

SILENT: Final = "silent"
"""The mode of a reactor that has not reported its presence for 16 s. Source: schema/functions/lib_reactors.sql."""

_REPORTED_FOR_S: Final = 600.0
"""A silent reactor counts as a trouble for this long. After that it has gone, and the others do its work."""

_MOST_NAMES: Final = 5
"""Maximum number of reactors that a sentence names."""

Reactor = Mapping[str, Any]


def reactor_names(reactors: Sequence[Reactor]) -> list[str]:
    """Return a different name for each reactor: its host, with HTTP port and process id, or with its instance id."""
    names = []
    for each in reactors:
        host = f"{each['host']}:{each['port']}" if each.get("port") else str(each["host"])
        names.append(f"{host} (process {each['pid']})" if each.get("pid") else host)
    return [
        f"{name} ({str(each['id'])[:8]})" if names.count(name) > 1 else name
        for name, each in zip(names, reactors, strict=True)
    ]


def running(reactors: Sequence[Reactor]) -> list[Reactor]:
    """Return the reactors that have reported in time."""
    return [each for each in reactors if each["mode"] != SILENT]


def fleet_troubles(reactors: Sequence[Reactor], *, own_id: str | None, is_polling_explained: bool) -> list[str]:
    """Return a sentence for each trouble of the reactors, without the one whose id is `own_id`.

    `is_polling_explained` means that the notification queue is full, so that all of them poll.
    """
    alive = running(reactors)
    if own_id is None and not alive:
        if not reactors:
            return ["No reactor is running."]
        return [f"No reactor has reported for {duration_text(min(float(each['seen_s_ago']) for each in reactors))}."]
    names = dict(zip((each["id"] for each in reactors), reactor_names(reactors), strict=True))
    others = [each for each in reactors if each["id"] != own_id]
    found = []
    silent = [
        f"{names[each['id']]} for {duration_text(each['seen_s_ago'])}"
        for each in others
        if each["mode"] == SILENT and float(each["seen_s_ago"]) <= _REPORTED_FOR_S and not _is_replaced(each, alive)
    ]
    if silent:
        found.append(f"No report from {_listed(silent)}: stopped, crashed, or cut off from the database.")
    polling = [names[each["id"]] for each in others if each["mode"] == "polling"]
    if polling and not is_polling_explained:
        verb = "polls" if len(polling) == 1 else "poll"
        found.append(f"{_listed(polling)} {verb} the database: notifications do not arrive there.")
    return found


def _is_replaced(silent: Reactor, alive: Sequence[Reactor]) -> bool:
    """Return whether a new process has taken the reactor's place on the same host and port."""
    return bool(silent.get("port")) and any(
        (each["host"], each.get("port")) == (silent["host"], silent["port"]) for each in alive
    )


def _listed(texts: Sequence[str]) -> str:
    more = [f"{len(texts) - _MOST_NAMES:,} more"] if len(texts) > _MOST_NAMES else []
    *first, last = [*texts[:_MOST_NAMES], *more]
    return f"{', '.join(first)} and {last}" if first else last
