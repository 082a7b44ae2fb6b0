"""What a reaction is: the code for one kind of row, as the engine sees it.

Two kinds exist. A `DirectReaction` does its whole work in one statement: a stale run is failed by the statement that
finds it stale. An `AttemptReaction` claims rows under a lease, has an executor work on them, and settles the outcomes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, TypeVar
from uuid import UUID

from attrs import define, field, frozen

from reactor.core.model import Due, Outcome, Signal
from reactor.core.trace_context import TraceContext
from reactor.postgres.notification import Hint
from reactor.runtime.executor import Executor, Job


@define(kw_only=True, eq=False)
class Attempt(Job):
    """One claimed row, from its claim to its settlement. Each reaction adds what its rows hold."""

    signal: Signal

    tenant: int
    """The signal's tenant; the executor shares its threads between tenants."""

    lease_until: float
    """Monotonic seconds: the lease may have ended from here on, counted from before the claim was sent."""

    deadline: float = field(default=math.inf, init=False)
    """Monotonic seconds: the attempt is cut short from here on. Set when it begins."""

    is_over: bool = field(default=False, init=False)
    """True once it has an outcome, which may not be settled yet."""

    is_lost: bool = field(default=False, init=False)
    """True once another reactor may have claimed the row; its outcome must not be settled any more."""


A = TypeVar("A", bound=Attempt)


@frozen(kw_only=True)
class ClaimResult(Generic[A]):
    """What a claim of a batch of signals returned."""

    attempts: Sequence[A] = ()
    """Claimed rows, to work on now."""

    later: Sequence[Due] = ()
    """Signals to schedule again."""


@frozen(kw_only=True)
class Sweep:
    """The rows that need attention, as the database lists them."""

    rows: Iterable[tuple[Due, float]] = ()
    """Each with the time of its last change (database seconds since 1970). Built lazily: there may be 50 000."""

    complete: bool = True
    """False when the database holds more due rows than one sweep may list."""


class Reaction(ABC):
    """One kind of row that needs attention."""

    name: ClassVar[str]
    """The name in signals, logs and metrics; also the module's name."""

    channel: ClassVar[str]
    """The channel on which triggers notify its rows."""

    @abstractmethod
    def due_at(self, hint: Hint) -> float | None:
        """Return when the hinted row is due (database seconds since 1970); None: it needs nothing any more."""

    async def prepare(self) -> None:  # noqa: B027  # optional
        """Warm up connection and statements, so that the first claim is fast. Raises DatabaseUnavailable."""

    @abstractmethod
    async def sweep(self, horizon_s: float) -> Sweep:
        """List the rows that are due within the horizon. Raises DatabaseUnavailable."""

    async def rescue(self) -> Sequence[TraceContext]:
        """Release rows whose worker is gone, before a sweep; return their places in their traces.

        Raises DatabaseUnavailable.
        """
        return ()


class DirectReaction(Reaction):
    """A reaction whose statement does the whole work."""

    @abstractmethod
    async def act(self, signals: Sequence[Signal]) -> Sequence[Due]:
        """Do what is due for these rows; return the signals to schedule again. Raises DatabaseUnavailable.

        Acting twice on the same rows is harmless.
        """


class AttemptReaction(Reaction, Generic[A]):
    """A reaction that claims rows, has an executor work on them, and settles the outcomes."""

    executor: Executor[A]
    """Works on the claimed rows."""

    attempt_timeout_s: float = math.inf
    """The longest that one attempt may take."""

    @property
    def is_held_up(self) -> bool:
        """Whether no attempt may begin: claimed rows that have not begun are handed back."""
        return False

    @abstractmethod
    async def claim(self, signals: Sequence[Signal]) -> ClaimResult[A]:
        """Claim the rows that are due. Raises DatabaseUnavailable; repeating it for the same rows is harmless."""

    def admit(self, attempts: Sequence[A]) -> Sequence[A]:
        """Return the leading attempts that may begin now; the others are handed back."""
        return attempts

    def started(self, attempts: Sequence[A]) -> None:
        """Take notice that the executor has begun these."""

    @abstractmethod
    def outcomes(self, attempts: Sequence[A]) -> Sequence[Outcome]:
        """Return the outcome of each attempt that the executor has ended. Never raises: a failure is an outcome."""

    @abstractmethod
    def hand_back(self, attempt: A) -> Outcome:
        """Return the outcome of an attempt that did not begin, or was interrupted by this reactor: not counted."""

    def cut_short(self, attempt: A) -> Outcome:
        """Return the outcome of an attempt that is abandoned: its time is over, or the reactor stops."""
        return self.hand_back(attempt)

    @abstractmethod
    async def settle(self, ended: Sequence[tuple[A, Outcome]]) -> Sequence[Due]:
        """Commit the outcomes; return the signals that are due again. Raises DatabaseUnavailable; may be repeated."""

    async def clean_up(self, settled: Sequence[A]) -> None:
        """Remove what settled attempts leave behind. Runs beside the next settlement."""

    @abstractmethod
    async def extend(self, held: Sequence[A]) -> set[UUID]:
        """Extend the leases; return the row ids that are still claimed here. Raises DatabaseUnavailable."""
