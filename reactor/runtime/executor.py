"""Work that blocks, and whoever does it: how it is handed over, and how it is told what became of it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from attrs import define, field


@define(kw_only=True, eq=False)
class Job:
    """A piece of work that blocks, and what became of it. Times are monotonic seconds, 0.0 before they have come."""

    began: float = field(default=0.0, init=False)
    ended: float = field(default=0.0, init=False)
    result: Any = field(default=None, init=False)
    """What the work returned."""

    error: BaseException | None = field(default=None, init=False)
    """What it raised."""

    is_cancelled: bool = field(default=False, init=False)
    """True once nobody waits for it any more: work that has begun may look, and stop."""

    is_told: bool = field(default=False, init=False)
    """True once whoever waits for it knows that it has begun."""

    @property
    def tenant(self) -> int:
        """Whose turn it takes."""
        return 0


J = TypeVar("J", bound=Job)

Told = Callable[[Sequence[Any], Sequence[Any]], None]


class Executor(Protocol[J]):
    """Whoever does the work of jobs: so many at once, so many of one tenant, one tenant after the other.

    All of it is called in the loop, and nothing waits.
    """

    @property
    def waiting(self) -> int:
        """How many jobs were taken on and not begun, as far as that is known."""

    def attend(self, told: Told) -> None:
        """Call `told` in the loop with those that have begun and those that have ended: each first as begun."""

    def submit(self, jobs: Iterable[J]) -> None:
        """Begin the jobs as soon as may be."""

    def take_back(self) -> Sequence[J]:
        """Return those that weren't begun; they won't be."""

    def drop(self, job: J) -> bool:
        """Wait no longer for a job: it isn't begun, or is abandoned. False when it has ended: that will be told."""
