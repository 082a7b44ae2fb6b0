"""Blocking work as jobs, and the interface of what runs them: ThreadPool here, coroutines in the simulation."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from attrs import define, field


@define(kw_only=True, eq=False)
class Job:
    """One piece of blocking work, and its result. Times are monotonic seconds; 0.0 means not yet."""

    began: float = field(default=0.0, init=False)
    ended: float = field(default=0.0, init=False)
    result: Any = field(default=None, init=False)
    """What the work returned."""

    error: BaseException | None = field(default=None, init=False)
    """What the work raised."""

    is_cancelled: bool = field(default=False, init=False)
    """True once the job was abandoned. Work that has begun may read it, and stop."""

    @property
    def tenant(self) -> int:
        """The tenant in whose turn the job begins."""
        return 0


J = TypeVar("J", bound=Job)


class Executor(Protocol[J]):
    """Runs jobs: a limited number at once, a limited number of one tenant, round-robin between tenants.

    Call it from one event loop. Only `progress` waits, and only one task may wait in it.
    """

    @property
    def waiting(self) -> int:
        """How many submitted jobs have not begun."""

    def submit(self, jobs: Iterable[J]) -> None:
        """Begin the jobs as soon as the limits allow."""

    async def progress(self) -> tuple[Sequence[J], Sequence[J]]:
        """Wait until jobs began or ended; return (started, ended) since the last call.

        Every job is reported as started in the same call or before it is reported as ended. An abandoned job is not
        reported any more.
        """

    def drain(self) -> Sequence[J]:
        """Take back the jobs that have not begun, and return them; they will not begin."""

    def abandon(self, job: J) -> bool:
        """Stop waiting for a job: it will not begin, or its result is ignored.

        Return False when it has already ended: `progress` reports it.
        """
