"""Runs groups of checks in parallel. Each check and each group has a time limit, even if a system call hangs.

Each check runs in a daemon thread. A thread that waits for the operating system cannot be stopped, so a check that
exceeds its limit is abandoned; a daemon thread does not keep the process alive. The later checks of the same group are
skipped, because they would wait for the same connection or disk. Other groups are not affected.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from threading import Thread
from time import monotonic

from loguru import logger

from reactor.core.errors import ReactorError
from reactor.doctor.finding import Check, CheckGroup, Finding, FindingVerdict, problem, skipped

CHECK_TIMEOUT_S = 6.0
"""Time limit of one check. Longer than the reactor's connect timeout of 5 s."""

GROUP_TIMEOUT_S = 8.0
"""Time limit of a group. Groups run in parallel, so the whole examination has the same limit."""


def examine(groups: Iterable[CheckGroup]) -> Iterator[Finding]:
    """Yield the findings of all checks, in the order of the groups."""
    for running in [_start(partial(_examine_group, group)) for group in groups]:
        yield from running.result()


def _start(work: Callable[[], list[Finding]]) -> "Future[list[Finding]]":
    future: Future[list[Finding]] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by future.result()
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _examine_group(group: CheckGroup) -> list[Finding]:
    deadline = monotonic() + GROUP_TIMEOUT_S
    findings: list[Finding] = []
    failed: set[str] = set()
    hanging: str | None = None
    for check in group.checks:
        if hanging is not None:
            findings.append(skipped(check.name, f"not checked: '{hanging}' did not end in time"))
        elif missing := next((name for name in check.needs if name in failed), None):
            failed.add(check.name)
            findings.append(skipped(check.name, f"not checked: it needs '{missing}'"))
        else:
            limit_s = max(0.0, min(CHECK_TIMEOUT_S, deadline - monotonic()))
            try:
                found = _start(partial(_examine, check)).result(limit_s)
            except TimeoutError:
                hanging = check.name
                found = [problem(check.name, f"no answer within {limit_s:.0f} s", check.fix)]
            findings += found
            if any(finding.verdict is FindingVerdict.PROBLEM for finding in found):
                failed.add(check.name)
    if hanging is None:
        group.close()
    return findings


def _examine(check: Check) -> list[Finding]:
    try:
        return list(check.examine())
    except ReactorError as error:
        return [problem(check.name, str(error), check.fix)]
    except Exception as error:  # noqa: BLE001 - a bug in one check must not hide the other findings
        logger.opt(exception=error).debug("the check '{}' failed", check.name)
        fix = "this is a bug in reactor: REACTOR_LOG_LEVEL=DEBUG shows the traceback"
        return [problem(check.name, f"the check itself failed ({type(error).__name__})", fix)]
