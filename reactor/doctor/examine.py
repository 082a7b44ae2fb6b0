"""Carry out checks: the groups side by side, each bounded in time, whatever hangs.

A check runs in a thread of its own. One that doesn't end in time is left behind: nothing can stop a thread that waits
for the system, but a daemon thread doesn't keep the process. What it holds (a connection, a disk) the rest of its group
would wait for as well, so that group ends there; the others have never waited for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from threading import Thread
from time import monotonic
from typing import TypeVar

from loguru import logger

from reactor.core.errors import ReactorError
from reactor.doctor.finding import Check, Finding, Group, Verdict, problem

CHECK_S = 6.0
"""How long one check may take; the reactor itself gives up connecting after 5 s."""

GROUP_S = 8.0
"""How long a group may take, and so the whole."""

_Result = TypeVar("_Result")


def examine(groups: Iterable[Group]) -> Iterator[Finding]:
    """Yield what all checks find, in the order in which they are given."""
    for running in [_start(partial(_examine_group, group)) for group in groups]:
        yield from running.result()


def _start(work: Callable[[], _Result]) -> "Future[_Result]":
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by whoever asks for the result
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def _examine_group(group: Group) -> list[Finding]:
    give_up = monotonic() + GROUP_S
    findings: list[Finding] = []
    failed: list[str] = []
    for index, check in enumerate(group.checks):
        if blocked := [name for name in check.needs if name in failed]:
            failed.append(check.name)
            findings.append(_skipped(check, f"not looked at: it needs '{blocked[0]}'"))
            continue
        running = _start(partial(_examine, check))
        limit_s = max(0.0, min(CHECK_S, give_up - monotonic()))
        try:
            found = running.result(limit_s)
        except TimeoutError:
            findings.append(problem(check.name, f"no answer within {limit_s:.0f} s", check.fix))
            return findings + _rest(group.checks[index + 1 :], check.name)
        findings += found
        if any(finding.verdict is Verdict.PROBLEM for finding in found):
            failed.append(check.name)
    group.close()
    return findings


def _examine(check: Check) -> list[Finding]:
    try:
        return list(check.examine())
    except ReactorError as error:
        return [problem(check.name, str(error), check.fix)]
    except Exception as error:  # noqa: BLE001 - a bug in one check must not hide what the others find
        logger.opt(exception=error).debug("the check '{}' failed", check.name)
        fix = "this is a bug of the reactor's: REACTOR_LOG_LEVEL=DEBUG shows where"
        return [problem(check.name, f"the check itself failed ({type(error).__name__})", fix)]


def _rest(checks: Sequence[Check], hung: str) -> list[Finding]:
    return [_skipped(check, f"not looked at: '{hung}' didn't end in time") for check in checks]


def _skipped(check: Check, why: str) -> Finding:
    return Finding(check=check.name, verdict=Verdict.SKIPPED, seen=why, fix=None)
