"""`reactor doctor`: checks everything that the reactor depends on, and prints problems with their fixes."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import click
from attrs import asdict, evolve

from reactor.cli.context import database_url, load_settings
from reactor.cli.output import as_json, print_json
from reactor.cli.terminal import say
from reactor.core.errors import ConfigInvalid
from reactor.doctor.database import DatabaseChecks
from reactor.doctor.examine import examine
from reactor.doctor.exposure import exposure_group
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
def doctor(*, as_json: bool, buckets: Sequence[str]) -> None:
    """Check everything the reactor depends on, and name fixes.

    Run it as the reactor's user, with the reactor's settings. It changes nothing: it deletes its probe files and
    objects. Exits 0 without a problem (warnings are allowed), 1 with a problem, 2 with an invalid setting.
    """
    try:
        settings = load_settings()
        settings = evolve(settings, database_url=database_url(settings))
    except ConfigInvalid as error:
        fix = "correct this setting; deploy/README.md lists all settings"
        _report([problem("settings", each, fix) for each in error.problems], as_json=as_json)
        raise SystemExit(2) from None
    databases, stores = DatabaseChecks(settings).group(), store_group(settings, buckets)
    groups = [databases, *spool_groups(settings), stores, exposure_group(settings), traces_group(os.environ)]
    findings = chain([ok("settings", "every setting is known and valid")], examine(groups))
    raise SystemExit(1 if _report(findings, as_json=as_json) else 0)


def _report(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print the findings as text or JSON, then a summary on stderr. Return the number of problems."""
    reported = []
    for finding in findings:
        reported.append(finding)
        if not as_json:
            verdict = finding.verdict
            line = f"  {finding.check.ljust(_CHECK_WIDTH)}  {finding.seen}"
            say(line, label=verdict.ljust(_VERDICT_WIDTH), colour=_COLOURS[verdict])
            if finding.fix is not None:
                say(f"{'':{_VERDICT_WIDTH}}  {'':{_CHECK_WIDTH}}  fix: {finding.fix}")
    if as_json:
        print_json([asdict(finding) for finding in reported])
    counts = Counter(finding.verdict for finding in reported)
    problems, warnings = counts[FindingVerdict.PROBLEM], counts[FindingVerdict.WARNING]
    is_well = not problems and not warnings
    say("all is well" if is_well else f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}", err=True)
    return problems


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}" + ("" if count == 1 else "s")
