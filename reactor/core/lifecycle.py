"""The states of uploads and runs, and every move between them, as two tables.

Nothing else decides a move: the functions in schema/functions/ make these and no others, and a test tries
every pair that isn't here against the database. A claim by a second reactor, a settlement by one whose lease
was taken, an operator's cancel of what is already stored: each is a missing pair.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class UploadState(StrEnum):
    """`upload_queue.status`; and, for a row that is gone, why."""

    FAILED = "failed"
    """Waits to be tried at next_retry_at."""

    UPLOADING = "uploading"
    """Claimed: one reactor holds its lease."""

    DEAD = "dead"
    """Given up; stays with its errors until an operator acts."""

    CANCELLED = "cancelled"
    """Given up by an operator."""

    STORED = "stored"
    """Gone: the store has the object, and the source says so."""

    PURGED = "purged"
    """Gone: an operator, or the end of its retention, removed what had been given up."""


class UploadVerb(StrEnum):
    """What can happen to an upload."""

    CLAIM = "claim"
    """A reactor leases it; the attempt is counted."""

    STORE = "store"
    """The attempt succeeded."""

    RETRY = "retry"
    """The attempt failed and others are left."""

    DEFER = "defer"
    """The attempt is handed back and not counted: shutdown, or the store is down."""

    BURY = "bury"
    """The attempt failed for good, or was the last."""

    RESCUE = "rescue"
    """The lease ran out; the attempt stays counted."""

    CANCEL = "cancel"
    """An operator gives it up."""

    REQUEUE = "requeue"
    """An operator has it tried at once; what had been given up, from the first retry."""

    PURGE = "purge"
    """The row and its spooled file go."""


class RunState(StrEnum):
    """`interpretation_runs.status`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class RunVerb(StrEnum):
    """What can happen to a run."""

    BEGIN = "begin"
    """A worker takes it up; the quota counts it."""

    COMPLETE = "complete"
    """Its worker is done."""

    FAIL = "fail"
    """Its worker, or an operator, gives up."""

    EXPIRE = "expire"
    """Its deadline passed, or its heartbeat stopped."""


UPLOAD_MOVES: Final[Mapping[tuple[UploadState, UploadVerb], UploadState]] = MappingProxyType(
    {
        (UploadState.FAILED, UploadVerb.CLAIM): UploadState.UPLOADING,
        (UploadState.UPLOADING, UploadVerb.CLAIM): UploadState.UPLOADING,
        (UploadState.UPLOADING, UploadVerb.STORE): UploadState.STORED,
        (UploadState.UPLOADING, UploadVerb.RETRY): UploadState.FAILED,
        (UploadState.UPLOADING, UploadVerb.DEFER): UploadState.FAILED,
        (UploadState.UPLOADING, UploadVerb.BURY): UploadState.DEAD,
        (UploadState.UPLOADING, UploadVerb.RESCUE): UploadState.FAILED,
        (UploadState.FAILED, UploadVerb.CANCEL): UploadState.CANCELLED,
        (UploadState.UPLOADING, UploadVerb.CANCEL): UploadState.CANCELLED,
        (UploadState.DEAD, UploadVerb.CANCEL): UploadState.CANCELLED,
        (UploadState.FAILED, UploadVerb.REQUEUE): UploadState.FAILED,
        (UploadState.DEAD, UploadVerb.REQUEUE): UploadState.FAILED,
        (UploadState.CANCELLED, UploadVerb.REQUEUE): UploadState.FAILED,
        (UploadState.DEAD, UploadVerb.PURGE): UploadState.PURGED,
        (UploadState.CANCELLED, UploadVerb.PURGE): UploadState.PURGED,
    }
)
"""Every move of an upload that has tries left; without, a rescue buries it.

A cancel while uploading takes the lease: its reactor can change nothing more. A claim while uploading takes over a
lease that has run out.
"""

RUN_MOVES: Final[Mapping[tuple[RunState, RunVerb], RunState]] = MappingProxyType(
    {
        (RunState.PENDING, RunVerb.BEGIN): RunState.RUNNING,
        (RunState.PENDING, RunVerb.FAIL): RunState.FAILED,
        (RunState.RUNNING, RunVerb.COMPLETE): RunState.COMPLETED,
        (RunState.RUNNING, RunVerb.FAIL): RunState.FAILED,
        (RunState.RUNNING, RunVerb.EXPIRE): RunState.FAILED,
    }
)
"""Every move of a run. A run that ended never moves again."""

STAYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "retry": "is not waiting, dead or cancelled",
        "cancel": "is not waiting, uploading or dead",
        "purge": "is not dead or cancelled: cancel it first",
        "fail": "is not pending or running, or does not exist",
    }
)
"""What is said of a row that an operator's word, by its name on the command line and the page, didn't move."""
