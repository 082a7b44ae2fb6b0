"""Values that travel through the reactor. A signal is a hint; the row is the truth."""

from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class Signal(NamedTuple):
    """Says that one row may need attention. Names the row and carries no state.

    Source: a notification of schema/functions/notify_*.sql, a sweep, or the reactor's own retry. A named tuple
    and not an attrs class: the wheel holds up to a million of them as dictionary keys.
    """

    reaction: str
    """Which reaction answers it: the name of a module under reactions/."""

    row: int
    """Primary key of the row in the table which that reaction watches: the UUID as a number, which takes half its room
    and is hashed and compared by the interpreter itself."""

    tenant: int
    """Hash of the row's user: enough to share fairly, and tells nobody who it is."""

    @property
    def row_id(self) -> UUID:
        return UUID(int=self.row)


class Due(NamedTuple):
    """A signal, and when its row is due, in seconds since 1970 by the database's clock."""

    signal: Signal
    due_at: float


class Verdict(StrEnum):
    """How an attempt ended; the words of the span attribute upload.outcome."""

    STORED = "stored"
    """The object is in the store; the row goes."""

    RETRY = "retry"
    """A transient failure with tries left; the row waits."""

    DEAD = "dead"
    """A permanent failure, or the last try; the row stays for an operator."""

    DEFERRED = "deferred"
    """Handed back unspent: the attempt isn't counted."""


class Outcome(NamedTuple):
    """How one attempt ended, as it will be settled."""

    verdict: Verdict

    delay_s: float = 0.0
    """Seconds from the settlement until the row is due again; for RETRY and DEFERRED."""

    code: str | None = None
    """Public error code of the failure; None when stored."""

    message: str | None = None
    """The failure in one line, without secrets, contents or spool paths; None when stored."""

    storage_url: str | None = None
    """Where the object is; only when stored."""
