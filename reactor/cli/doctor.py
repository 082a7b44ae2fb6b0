"""`reactor doctor`: what is wrong here, and what mends it."""

import os
from collections.abc import Iterable, Sequence

import click
from attrs import asdict, evolve

from reactor.cli.common import as_json, database_url, load_settings, print_json
from reactor.core.errors import ConfigInvalid
from reactor.core.settings import Settings
from reactor.doctor.database import DatabaseChecks
from reactor.doctor.examine import examine
from reactor.doctor.finding import Finding, FindingVerdict, ok, problem
from reactor.doctor.spools import spool_groups
from reactor.doctor.store import store_group
from reactor.doctor.traces import traces_group

_COLOURS = {
    FindingVerdict.OK: "green",
    FindingVerdict.WARNING: "yellow",
    FindingVerdict.PROBLEM: "red",
    FindingVerdict.SKIPPED: "bright_black",
}
_VERDICT_WIDTH = len("problem")
_CHECK_WIDTH = len("row level security")


@click.command()
@as_json
@click.option(
    "--bucket",
    "buckets",
    multiple=True,
    metavar="NAME[/PREFIX/]",
    help="Probe this bucket too, beside those that queued uploads name. May be repeated.",
)
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool, buckets: Sequence[str]) -> None:
    """Examine everything that the reactor depends on, and say what mends what is wrong.

    \b
    Run it as the reactor's user, with the reactor's settings. It changes nothing: probe files and objects are
    removed again. Exits 0 when all is well or only warned of, 1 when something is wrong, 2 when a setting is.
    """
    try:
        settings = load_settings(ctx)
        settings = evolve(settings, database_url=database_url(settings))
    except ConfigInvalid as error:
        fix = "correct the setting that is named; the README lists them all"
        _tell([problem("settings", each, fix) for each in error.problems], as_json=as_json)
        ctx.exit(2)
    findings = _tell(_findings(settings, buckets), as_json=as_json)
    ctx.exit(1 if any(finding.verdict is FindingVerdict.PROBLEM for finding in findings) else 0)


def _findings(settings: Settings, buckets: Sequence[str]) -> Iterable[Finding]:
    yield ok("settings", "every setting is known and valid")
    yield from examine(
        [
            DatabaseChecks(settings).group(),
            *spool_groups(settings),
            store_group(settings, buckets),
            traces_group(os.environ),
        ]
    )


def _tell(found: Iterable[Finding], *, as_json: bool) -> list[Finding]:
    """Print what was found, as it is found; or all of it as JSON."""
    findings = []
    for finding in found:
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    wrong, warned = (
        sum(f.verdict is verdict for f in findings) for verdict in (FindingVerdict.PROBLEM, FindingVerdict.WARNING)
    )
    summary = f"{_counted(wrong, 'problem')}, {_counted(warned, 'warning')}" if wrong or warned else "all is well"
    click.echo(summary, err=True)
    return findings


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}" + ("" if count == 1 else "s")


def _print(finding: Finding) -> None:
    verdict = click.style(finding.verdict.ljust(_VERDICT_WIDTH), fg=_COLOURS[finding.verdict])
    click.echo(f"{verdict}  {finding.check.ljust(_CHECK_WIDTH)}  {finding.seen}")
    if finding.fix is not None:
        click.echo(f"{'':{_VERDICT_WIDTH}}  {'':{_CHECK_WIDTH}}  fix: {finding.fix}")
