"""Values that pass through the reactor. A signal is a hint; the row decides."""

from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID


class Signal(NamedTuple):
    """A hint that one row may need attention, from a notification, a sweep, or the reactor's own retry.

    A named tuple and not an attrs class, because the wheel holds up to a million of them as dictionary keys.
    """

    reaction: str
    """The name of the reaction that handles it: a module under reactions/."""

    row: int
    """Primary key of the row in the reaction's table: the UUID as an int, which takes half the memory and is faster
    to hash and compare."""

    tenant: int
    """Hash of the row's user: enough for fairness, without revealing the user."""

    @property
    def row_id(self) -> UUID:
        return UUID(int=self.row)


class Due(NamedTuple):
    """A signal and the time at which its row is due, in Unix seconds of the database's clock."""

    signal: Signal
    due_at: float


class Verdict(StrEnum):
    """How an attempt ended; the values of the span attribute upload.outcome."""

    STORED = "stored"
    """The object is in the store; the row is deleted."""

    RETRY = "retry"
    """A transient failure with retries left; the row waits."""

    DEAD = "dead"
    """A permanent failure, or the last retry; the row stays for an operator."""

    DEFERRED = "deferred"
    """Handed back: the attempt isn't counted."""


class Outcome(NamedTuple):
    """How one attempt ended, for its settlement."""

    verdict: Verdict

    delay_s: float = 0.0
    """Seconds from the settlement until the row is due again; for RETRY and DEFERRED."""

    code: str | None = None
    """Public error code of the failure; None if stored."""

    message: str | None = None
    """The failure in one line, without secrets, contents or spool paths; None if stored."""

    storage_url: str | None = None
    """URL of the stored object; None unless stored."""


WHY_UNCHANGED: Final = {
    "retry": "is not waiting, dead or cancelled",
    "cancel": "is not waiting, uploading or dead",
    "purge": "is not dead or cancelled: cancel it first",
    "fail": "is not pending or running, or does not exist",
}
"""Why an operator's action leaves a row unchanged, by action. Completes "<row id> …"."""
