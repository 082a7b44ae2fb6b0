"""Jobs, and the interface of an executor of jobs: ThreadPool here, coroutines in the simulation."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from attrs import define, field


@define(kw_only=True, eq=False)
class Job:
    """One piece of blocking work, and its result. `began` and `ended` are monotonic seconds, 0.0 before."""

    began: float = field(default=0.0, init=False)
    ended: float = field(default=0.0, init=False)
    result: Any = field(default=None, init=False)
    """What the work returned."""

    error: BaseException | None = field(default=None, init=False)
    """What the work raised."""

    is_cancelled: bool = field(default=False, init=False)
    """True when the job was abandoned. The running work may read this field, and stop."""

    @property
    def tenant(self) -> int:
        """The tenant of the job. Executors share their threads between tenants."""
        return 0


J = TypeVar("J", bound=Job)


class Executor(Protocol[J]):
    """Runs jobs, round-robin by tenant, with a limit of concurrent jobs for each tenant and for all.

    All calls must come from one event loop. Only `progress` waits, and only one task may call it.
    """

    @property
    def waiting(self) -> int:
        """Number of submitted jobs that have not begun."""

    def submit(self, jobs: Iterable[J]) -> None:
        """Begin the jobs as soon as the limits allow."""

    async def progress(self) -> tuple[Sequence[J], Sequence[J]]:
        """Wait until jobs have begun or ended; return the jobs that began and that ended since the last call.

        A job is returned as ended by the call that returns it as started, or by a later call. After `abandon` has
        returned True, the job is not returned.
        """

    def drain(self) -> Sequence[J]:
        """Remove the jobs that have not begun, and return them."""

    def abandon(self, job: J) -> bool:
        """Prevent a job from beginning, or ignore its result if it has begun.

        Return False if it has already ended: then `progress` returns it.
        """
