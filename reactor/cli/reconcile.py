"""`reactor reconcile`: one complete pass, without a running reactor."""

from collections import Counter
from typing import Any

import anyio
import click
from attrs import evolve

from reactor.app import Reactor
from reactor.cli.context import database_url, load_settings
from reactor.cli.garbage_collection import tune_garbage_collector
from reactor.cli.output import as_json, print_json
from reactor.cli.signals import exit_if_threads_hang, run_with_signals
from reactor.core.events import AttemptsSettled, Event, Rescued, RunExpired, UsageRepaired
from reactor.core.settings import Settings
from reactor.postgres.admin import inspecting

_SUMMARY_KEYS = ("stored", "retry", "dead", "deferred", "rescued", "runs_failed", "reservations_released")


class _Tally:
    """Counts what a pass did, from its events."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, event: Event) -> None:
        match event:
            case AttemptsSettled():
                self._counts.update(settled.verdict for settled in event.attempts)
            case RunExpired():
                self._counts["runs_failed"] += 1
            case Rescued():
                self._counts["rescued"] += event.retried
                self._counts["dead"] += event.buried
            case UsageRepaired(kind="reservations"):
                self._counts["reservations_released"] += event.count
            case _:
                pass

    def summary(self) -> dict[str, int]:
        return {key: self._counts[key] for key in _SUMMARY_KEYS}


@click.command()
@click.option("--dry-run", is_flag=True, help="Print what there is to do; change nothing.")
@as_json
@click.pass_context
def reconcile(ctx: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Do one complete pass without a running reactor.

    Tries every due upload once, fails every stale run, takes over expired leases and releases leaked reservations; then
    prints what it did. Safe while any number of reactors run.
    """
    settings = load_settings(ctx)
    settings = evolve(settings, database_url=database_url(settings))
    if dry_run:
        with inspecting(settings.database_url or "") as inspector:
            _print_counts(inspector.due(settings.heartbeat_timeout_s), as_json=as_json)
        return
    tally = _Tally()
    tune_garbage_collector()
    anyio.run(_drain, settings, tally)
    _print_counts(tally.summary(), as_json=as_json)
    exit_if_threads_hang()


async def _drain(settings: Settings, tally: _Tally) -> None:
    reactor = Reactor(settings, listener=tally.count)
    await run_with_signals(reactor.drain, lambda _signal: reactor.stop())


def _print_counts(counts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))
