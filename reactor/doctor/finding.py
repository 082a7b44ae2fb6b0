"""What a check is, and what it finds."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from attrs import frozen


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and somebody should know how."""
    PROBLEM = "problem"
    SKIPPED = "skipped"
    """Not looked at, because of an earlier problem."""


@frozen(kw_only=True)
class Finding:
    """What one check saw."""

    check: str
    verdict: Verdict
    seen: str
    """In words, without a secret."""

    fix: str | None
    """The setting or the command that mends it; None where there is nothing to mend."""


def ok(check: str, seen: str) -> Finding:
    return Finding(check=check, verdict=Verdict.OK, seen=seen, fix=None)


def warning(check: str, seen: str, fix: str) -> Finding:
    return Finding(check=check, verdict=Verdict.WARNING, seen=seen, fix=fix)


def problem(check: str, seen: str, fix: str) -> Finding:
    return Finding(check=check, verdict=Verdict.PROBLEM, seen=seen, fix=fix)


@frozen(kw_only=True)
class Check:
    """One thing to look at. `examine` blocks, and raises a ReactorError for what can't be done at all."""

    name: str
    examine: Callable[[], Iterable[Finding]]
    fix: str
    """What mends it when it raises, or takes too long."""

    needs: Sequence[str] = ()
    """Names of earlier checks of its group; when one of them found a problem, this one is skipped."""


@frozen(kw_only=True)
class Group:
    """Checks of one thing outside, one after the other."""

    checks: Sequence[Check]
    close: Callable[[], None] = lambda: None
    """Lets go of what the checks share."""
