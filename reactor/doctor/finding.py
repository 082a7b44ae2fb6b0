"""Checks and their findings."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from functools import partial

from attrs import field, frozen


class FindingVerdict(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    """The reactor works, but an operator should read the finding."""
    PROBLEM = "problem"
    SKIPPED = "skipped"
    """Not checked, because of an earlier problem."""


@frozen
class Finding:
    """The result of one check."""

    check: str
    verdict: FindingVerdict = field(kw_only=True)
    seen: str
    """What the check saw, as a sentence without secrets."""

    fix: str | None = None
    """The setting or command that fixes the problem; None if there is nothing to fix."""


ok = partial(Finding, verdict=FindingVerdict.OK)
warning = partial(Finding, verdict=FindingVerdict.WARNING)
problem = partial(Finding, verdict=FindingVerdict.PROBLEM)
skipped = partial(Finding, verdict=FindingVerdict.SKIPPED)


@frozen
class Check:
    """One check. `examine` blocks. It may raise a ReactorError, which is reported as a problem."""

    name: str
    examine: Callable[[], Iterable[Finding]]
    fix: str
    """The fix to show if `examine` raises or takes too long."""

    needs: Sequence[str] = ()
    """Names of earlier checks in the same group. This check is skipped if one of them found a problem."""


@frozen
class CheckGroup:
    """Checks of one external system, run one after another."""

    checks: Sequence[Check]
    close: Callable[[], None] = lambda: None
    """Releases the resources that the checks share, such as a connection."""
