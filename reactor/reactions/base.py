"""The interface between the engine and a reaction. A reaction is the code for one kind of row.

Two kinds exist. A `DirectReaction` does its whole work in one statement: the statement that finds stale runs also fails
them. An `AttemptReaction` claims rows under a lease, submits them to an executor, and settles the outcomes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Generic, TypeVar

from attrs import define, field, frozen

from reactor.core.model import Due, Outcome, Signal
from reactor.core.trace_context import TraceContext
from reactor.postgres.notification import Hint
from reactor.postgres.upload_answers import Extension
from reactor.runtime.executor import Executor, Job


@define(kw_only=True, eq=False)
class Attempt(Job):
    """One claimed row, from its claim to its settlement. Subclasses add the fields that their reaction needs."""

    signal: Signal

    tenant: int
    """The signal's tenant; the executor shares its threads between tenants."""

    lease_until: float
    """Monotonic seconds. The lease can't end before this time, which is counted from the moment at which the claim or
    the last extension was sent."""

    deadline: float = field(default=math.inf, init=False)
    """Monotonic seconds. A running attempt is cut short at this time, which is set when the attempt begins."""

    is_over: bool = field(default=False, init=False)
    """True when the attempt has an outcome, settled or not."""

    is_lost: bool = field(default=False, init=False)
    """True when another reactor may have claimed the row: the outcome of this attempt must not be settled."""


A = TypeVar("A", bound=Attempt)


@frozen(kw_only=True)
class ClaimResult(Generic[A]):
    """The result of a claim for a batch of signals."""

    attempts: Sequence[A] = ()
    """The claimed rows."""

    later: Sequence[Due] = ()
    """Signals to schedule again."""


@frozen(kw_only=True)
class SettleResult(Generic[A]):
    """The result of a settlement. Attempts in `busy` aren't settled."""

    later: Sequence[Due] = ()
    """Signals to schedule again."""

    busy: Sequence[A] = ()
    """Attempts to settle again in moments: another session has locked a row that their settlement changes."""


@frozen(kw_only=True)
class Sweep:
    """The rows that the database lists as due within the horizon."""

    rows: Iterable[tuple[Due, float]] = ()
    """Each row's signal with its due time, and the earliest time at which a reactor could have scheduled the row. Both
    times are database seconds since 1970. Lazy, because there may be 200 000 rows."""

    complete: bool = True
    """False if the database may have further due rows, beyond the limit of one sweep."""


class Reaction(ABC):
    """The code for one kind of row."""

    name: ClassVar[str]
    """The name in signals, logs and metrics; also the module's name."""

    channel: ClassVar[str]
    """The channel on which triggers send notifications about its rows."""

    @abstractmethod
    def due_at(self, hint: Hint) -> float | None:
        """Return when the hinted row is due (database seconds since 1970); None if the row needs no more work."""

    async def prepare(self) -> None:  # noqa: B027  # optional
        """Open the connection and prepare statements, so that the first claim is fast. Raises DatabaseUnavailable."""

    @abstractmethod
    async def sweep(self, horizon_s: float) -> Sweep:
        """List the rows that are due within the horizon. Raises DatabaseUnavailable."""

    async def rescue(self) -> Sequence[TraceContext]:
        """Release the rows whose worker has gone; return their trace contexts. Raises DatabaseUnavailable.

        The engine calls it before each sweep of a whole pass.
        """
        return ()


class DirectReaction(Reaction):
    """A reaction that does its whole work in one statement."""

    @abstractmethod
    async def act(self, signals: Sequence[Signal]) -> Sequence[Due]:
        """Do the work that is due for these rows; return the signals to schedule again. Raises DatabaseUnavailable.

        A repeated call for the same rows has no further effect.
        """


class AttemptReaction(Reaction, Generic[A]):
    """A reaction that claims rows, submits them to an executor, and settles the outcomes."""

    executor: Executor[A]
    """Executes the attempts."""

    attempt_timeout_s: float = math.inf
    """Maximum seconds from the start of an attempt to its deadline."""

    @abstractmethod
    async def claim(self, signals: Sequence[Signal]) -> ClaimResult[A]:
        """Claim the rows that are due. Raises DatabaseUnavailable.

        After DatabaseUnavailable, the engine repeats the claim, perhaps in another batch.
        """

    def admit(self, attempts: Sequence[A]) -> tuple[Sequence[A], Sequence[A]]:
        """Return the attempts that may begin now, and the others, which the engine hands back."""
        return attempts, ()

    def must_admit_again(self) -> bool:
        """Return whether `admit` would now hold attempts that it has admitted; then False until that changes again."""
        return False

    def started(self, attempts: Sequence[A]) -> None:
        """Record that the executor has begun these attempts, and set their deadlines if attempts have a timeout."""

    @abstractmethod
    def outcomes(self, attempts: Sequence[A]) -> Sequence[Outcome]:
        """Return the outcome of each of these ended attempts. Never raises: a failed attempt also has an outcome."""

    @abstractmethod
    def hand_back(self, attempt: A) -> Outcome:
        """Return the outcome of an attempt that didn't begin. The attempt isn't counted."""

    def cut_short(self, attempt: A) -> Outcome:
        """Return the outcome of an abandoned attempt: its deadline passed, its lease was lost, or the reactor stops."""
        return self.hand_back(attempt)

    @abstractmethod
    async def settle(self, ended: Sequence[tuple[A, Outcome]]) -> SettleResult[A]:
        """Commit the outcomes, without waiting for other sessions. Raises DatabaseFailure.

        After DatabaseFailure, the engine repeats the call. Two calls for different attempts may run concurrently.
        """

    async def clean_up(self, settled: Sequence[A]) -> None:
        """Remove what settled attempts leave behind. The next settlement may run concurrently."""

    @abstractmethod
    async def extend(self, held: Sequence[A]) -> Extension:
        """Extend the leases of rows, without waiting for other sessions. Raises DatabaseUnavailable."""
