"""`reactor reconcile`: does one complete pass. Needs no running reactor."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import click
from attrs import evolve

from reactor.app import Reactor
from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_json
from reactor.cli.process import exit_if_threads_hang, run_with_signals, tune_garbage_collector
from reactor.core.events import AttemptsSettled, Event, Rescued, RowsRefused, RunExpired, UsageRepaired
from reactor.core.settings import Settings
from reactor.postgres.admin import inspecting

_SUMMARY_KEYS = ("stored", "retry", "dead", "deferred", "rescued", "runs_failed", "reservations_released")


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what there is to do; change nothing.")
@as_json
def reconcile(*, dry_run: bool, as_json: bool) -> None:
    """Do one complete pass without a running reactor.

    Tries every due upload once, fails every stale run, takes over expired leases and releases leaked reservations; then
    prints what it did. Safe while any number of reactors run. Exits 1 if the database refused a row, or another session
    prevented a step.
    """
    settings = load_settings()
    settings = evolve(settings, database_url=database_url(settings))
    if dry_run:
        with inspecting(settings.database_url or "") as inspector:
            _print_counts(inspector.due(settings.heartbeat_timeout_s), as_json=as_json)
        return
    counts: Counter[str] = Counter(dict.fromkeys(_SUMMARY_KEYS, 0))
    tune_garbage_collector()
    skipped = anyio.run(_drain, settings, counts)
    _print_counts(counts, as_json=as_json)
    for line in skipped:
        click.echo(f"reactor: {line}", err=True)
    if skipped or counts["refused"]:
        raise SystemExit(1)
    exit_if_threads_hang()


async def _drain(settings: Settings, counts: Counter[str]) -> Sequence[str]:
    """Do one pass; return what it couldn't do."""
    reactor = Reactor(settings, listener=partial(_count, counts))
    await run_with_signals(reactor.drain, lambda _signal: reactor.stop())
    return reactor.skipped


def _count(counts: Counter[str], event: Event) -> None:
    """Add the work that an event reports to the counts."""
    match event:
        case AttemptsSettled():
            counts.update(settled.verdict for settled in event.attempts)
        case RunExpired():
            counts["runs_failed"] += 1
        case RowsRefused():
            counts["refused"] += len(event.row_ids)
        case Rescued():
            counts.update(rescued=event.retried, dead=event.buried)
        case UsageRepaired(kind="reservations"):
            counts["reservations_released"] += event.count


def _print_counts(counts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))
