"""What a reaction is: the code that answers one kind of notification. The engine knows no more of it than this.

A reaction claims rows in batches, has its executor act on what it claimed, and settles what came of it in batches.
Where the claim is the whole effect (a stale run is failed by the claim itself), nothing is claimed, and the rest never
comes up.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from anyio import sleep_forever
from attrs import define, field, frozen

from reactor.core.model import Due, Outcome, Signal
from reactor.core.trace_context import TraceContext
from reactor.postgres.notification import Hint
from reactor.runtime.executor import Executor, Job


@define(kw_only=True, eq=False)
class Attempt(Job):
    """One claimed row on its way from claim to settlement. Each reaction adds what its rows hold."""

    signal: Signal

    lease_until: float
    """Monotonic seconds: when the lease may have ended, reckoned from before the claim was sent."""

    deadline: float = field(default=math.inf, init=False)
    """Monotonic seconds: when the act is cut short. Set as it begins; of acts under way, the one begun first has the
    earliest."""

    is_over: bool = field(default=False, init=False)
    """True once its outcome is known: it may have to be settled still."""

    is_lost: bool = field(default=False, init=False)
    """True once another reactor may have taken the row over; nothing of it may be settled any more."""

    @property
    def tenant(self) -> int:
        return self.signal.tenant


A = TypeVar("A", bound=Attempt)


@frozen(kw_only=True)
class Claimed(Generic[A]):
    """What a batch of signals came to."""

    attempts: Sequence[A] = ()
    """To be acted on now."""

    later: Sequence[Due] = ()
    """To be looked at again."""


@frozen(kw_only=True)
class Sweep:
    """What the database says needs attention."""

    rows: Iterable[tuple[Due, float]] = ()
    """Made as they are asked for, for there may be many. Each with the moment (database seconds since 1970) since when
    it could have been known.
    """

    complete: bool = True
    """False when there was more than one sweep may bring."""


class Nobody(Executor[Any]):
    """The executor of a reaction that claims nothing that could be acted on."""

    waiting = 0

    def submit(self, jobs: Iterable[Job]) -> None:
        raise NotImplementedError("nobody acts on what this reaction claims")

    async def progress(self) -> tuple[Sequence[Any], Sequence[Any]]:
        await sleep_forever()
        return (), ()

    def drain(self) -> Sequence[Job]:
        return ()

    def abandon(self, job: Job) -> bool:  # noqa: ARG002  # there is none
        return False


class Reaction(ABC, Generic[A]):
    """One kind of row that needs attention."""

    name: ClassVar[str]
    """The word in signals, logs and metrics; also the module's name."""

    channel: ClassVar[str]
    """The channel on which its rows are notified."""

    executor: Executor[A] = Nobody()
    """Who does the work of claimed rows."""

    @property
    def is_held_up(self) -> bool:
        """Whether nothing may begin: what was claimed and not begun is to be handed back."""
        return False

    @abstractmethod
    def due_at(self, hint: Hint) -> float | None:
        """Return when the hinted row is due (database seconds since 1970), None when it needs nothing any more."""

    async def prepare(self) -> None:
        """Make ready before the first claim, so that it takes no longer than others. Raises DatabaseUnavailable."""

    @abstractmethod
    async def claim(self, signals: Sequence[Signal]) -> Claimed[A]:
        """Claim the rows that are due. Raises DatabaseUnavailable; claiming the same rows again is harmless."""

    @abstractmethod
    async def sweep(self, horizon_s: float) -> Sweep:
        """List the rows that are due within the horizon. Raises DatabaseUnavailable."""

    async def rescue(self) -> Sequence[TraceContext]:
        """Bring back rows that nobody works on any more, before a sweep; return where they stand in their traces.

        Raises DatabaseUnavailable.
        """
        return ()

    def admit(self, attempts: Sequence[A]) -> Sequence[A]:
        """Return the first of what was just claimed, as many as may begin; the others are handed back."""
        return attempts

    def begun(self, attempts: Sequence[A]) -> None:
        """Take in that the executor has begun."""

    def outcomes(self, attempts: Sequence[A]) -> Sequence[Outcome]:
        """Say what the executor's work came to, one by one. Never raises: a failure is an outcome."""
        raise NotImplementedError(f"{self.name} claims nothing that could be acted on")

    def hand_back(self, attempt: A) -> Outcome:
        """Return the outcome of an attempt that was not begun, or not finished by no fault of its own."""
        raise NotImplementedError(f"{self.name} claims nothing that could be handed back")

    def cut_short(self, attempt: A) -> Outcome:
        """Return the outcome of an attempt that nobody waits for any more: its time is over, or ours."""
        return self.hand_back(attempt)

    async def settle(self, ended: Sequence[tuple[A, Outcome]]) -> Sequence[Due]:
        """Commit the outcomes and return what is due again. Raises DatabaseUnavailable; may be repeated."""
        raise NotImplementedError(f"{self.name} claims nothing that could be settled")

    async def clean_up(self, settled: Sequence[A]) -> None:
        """Remove what the settled leave behind that nobody needs any more; goes on beside the next settlement."""

    async def extend(self, held: Sequence[A]) -> set[UUID]:
        """Extend the leases; return the row ids that are still ours. Raises DatabaseUnavailable."""
        raise NotImplementedError(f"{self.name} claims nothing under a lease")
