"""`reactor reconcile`: one pass to completion, with no reactor needed."""

import signal
from collections import Counter
from typing import Any

import anyio
import click
from attrs import evolve

from reactor.app import Reactor
from reactor.cli.common import as_json, database_url, load_settings, print_json, spare_the_collector
from reactor.core.events import AttemptsSettled, Event, Rescued, RunExpired, UsageRepaired
from reactor.core.settings import Settings
from reactor.postgres.admin import inspecting

_COUNTED = ("stored", "retry", "dead", "deferred", "rescued", "runs_failed", "reservations_released")


class _Tally:
    """Counts what a pass did."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def hear(self, event: Event) -> None:
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
        return {key: self._counts[key] for key in _COUNTED}


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what there is to do; change nothing.")
@as_json
@click.pass_context
def reconcile(ctx: click.Context, *, dry_run: bool, as_json: bool) -> None:
    """Try every due upload once, fail every stale run, take over what the dead left behind, give leaked reservations
    back; then say what was done.

    Needs no reactor, and is safe beside any number of them.
    """
    settings = load_settings(ctx)
    settings = evolve(settings, database_url=database_url(settings))
    if dry_run:
        with inspecting(settings.database_url or "") as inspector:
            _tell(inspector.due(settings.heartbeat_timeout_s), as_json=as_json)
        return
    tally = _Tally()
    spare_the_collector()
    anyio.run(_drain, settings, tally)
    _tell(tally.summary(), as_json=as_json)


async def _drain(settings: Settings, tally: _Tally) -> None:
    reactor = Reactor(settings, listener=tally.hear)
    async with anyio.create_task_group() as tasks:

        async def stop_on_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    reactor.stop()

        tasks.start_soon(stop_on_signal)
        await reactor.drain()
        tasks.cancel_scope.cancel()


def _tell(counts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
    else:
        click.echo(", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))
