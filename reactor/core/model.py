"""Signals and outcomes. A signal is only a hint: the database decides whether the row is due."""

from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID


class Signal(NamedTuple):
    """A hint that one row may be due. Signals come from notifications, from sweeps, and from scheduled retries.

    A named tuple and not an attrs class, because the wheel has up to a million signals as dictionary keys.
    """

    reaction: str
    """The name of the reaction that handles the signal."""

    row: int
    """Primary key of the row in the reaction's table: the UUID as an int. An int takes half the memory of a UUID and is
    faster to hash and compare."""

    tenant: int
    """Hash of the row's user id, for fairness. It doesn't reveal the user."""

    @property
    def row_id(self) -> UUID:
        return UUID(int=self.row)


class Due(NamedTuple):
    """A signal and the time at which its row is due, in Unix seconds of the database's clock."""

    signal: Signal
    due_at: float


class Verdict(StrEnum):
    """How an attempt ended. These are also the values of the span attribute upload.outcome."""

    STORED = "stored"
    """The object is in the store; the row is deleted."""

    RETRY = "retry"
    """A transient failure, and attempts are left; the row waits for the next attempt."""

    DEAD = "dead"
    """A permanent failure, or no attempts are left; the row stays until an operator acts."""

    DEFERRED = "deferred"
    """The attempt isn't counted; the row waits for another attempt."""


class Outcome(NamedTuple):
    """The result of one attempt, to settle it."""

    verdict: Verdict

    delay_s: float = 0.0
    """Seconds from the settlement until the row is due again; for RETRY and DEFERRED."""

    code: str | None = None
    """Public error code of the failure; None if the attempt didn't fail."""

    message: str | None = None
    """The failure in one line, without secrets, contents or spool paths; None if the attempt didn't fail."""

    storage_url: str | None = None
    """URL of the stored object; None for other verdicts than STORED."""


WHY_UNCHANGED: Final = {
    "retry": "is not waiting, dead or cancelled",
    "cancel": "is not waiting, uploading or dead",
    "purge": "is not dead or cancelled: cancel it first",
    "fail": "is not pending or running, or does not exist",
}
"""Maps each action of an operator to the reason why it changed nothing. The reason completes "<row id> …"."""
