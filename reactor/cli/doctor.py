"""`reactor doctor`: find problems in everything that the reactor depends on, and name their fixes."""

import os
from collections.abc import Iterable, Sequence

import click
from attrs import asdict, evolve

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_json
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
    help="Probe this bucket, too, besides those of queued uploads. Repeatable.",
)
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool, buckets: Sequence[str]) -> None:
    """Check everything the reactor depends on, and name fixes.

    Run it as the reactor's user, with the reactor's settings. It changes nothing: it deletes its probe files and
    objects. Exits 0 without a problem (warnings are allowed), 1 with a problem, 2 with an invalid setting.
    """
    try:
        settings = load_settings(ctx)
        settings = evolve(settings, database_url=database_url(settings))
    except ConfigInvalid as error:
        fix = "correct this setting; the README lists all settings"
        _report([problem("settings", each, fix) for each in error.problems], as_json=as_json)
        ctx.exit(2)
    findings = _report(_findings(settings, buckets), as_json=as_json)
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


def _report(findings: Iterable[Finding], *, as_json: bool) -> list[Finding]:
    """Print each finding as it comes, or all as JSON; then a summary on stderr. Return all findings."""
    reported = []
    for finding in findings:
        reported.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        print_json([asdict(finding) for finding in reported])
    problems = sum(finding.verdict is FindingVerdict.PROBLEM for finding in reported)
    warnings = sum(finding.verdict is FindingVerdict.WARNING for finding in reported)
    summary = (
        f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}" if problems or warnings else "all is well"
    )
    click.echo(summary, err=True)
    return reported


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}" + ("" if count == 1 else "s")


def _print(finding: Finding) -> None:
    verdict = click.style(finding.verdict.ljust(_VERDICT_WIDTH), fg=_COLOURS[finding.verdict])
    click.echo(f"{verdict}  {finding.check.ljust(_CHECK_WIDTH)}  {finding.seen}")
    if finding.fix is not None:
        click.echo(f"{'':{_VERDICT_WIDTH}}  {'':{_CHECK_WIDTH}}  fix: {finding.fix}")
