"""The states of uploads and runs, and all transitions between them. The tests compare the schema with this model.

The functions in schema/functions/ make only these transitions. tests/schema/test_state_machine.py tries each verb in
each state of an upload, and FAIL and EXPIRE in each state of a run. A verb without a transition must change nothing.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class UploadState(StrEnum):
    """`upload_queue.status`, and two states of an upload whose row was deleted."""

    FAILED = "failed"
    """Waits for its next attempt at next_retry_at."""

    UPLOADING = "uploading"
    """Claimed: one reactor holds the lease."""

    DEAD = "dead"
    """No retries are left, or the failure is permanent. The row keeps its errors until an operator acts."""

    CANCELLED = "cancelled"
    """Cancelled by an operator."""

    STORED = "stored"
    """The row was deleted, because the store has the object. The source is `uploaded`."""

    PURGED = "purged"
    """An operator deleted the row of a dead or cancelled upload."""


class UploadVerb(StrEnum):
    """An event in the life of an upload."""

    CLAIM = "claim"
    """A reactor takes the lease; the attempt is counted."""

    STORE = "store"
    """The attempt succeeded."""

    RETRY = "retry"
    """The attempt failed and retries are left."""

    DEFER = "defer"
    """The attempt is handed back and not counted, because of a shutdown or because the store is down."""

    BURY = "bury"
    """The attempt failed permanently, or it failed and no retries are left."""

    RESCUE = "rescue"
    """The lease expired; the attempt stays counted."""

    CANCEL = "cancel"
    """An operator cancels the upload."""

    REQUEUE = "requeue"
    """An operator makes the upload due now. A dead or cancelled upload gets all its retries again."""

    PURGE = "purge"
    """An operator deletes the row and its spooled file."""


class RunState(StrEnum):
    """`interpretation_runs.status`."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class RunVerb(StrEnum):
    """An event in the life of a run."""

    BEGIN = "begin"
    """A worker starts the run; the quota counts it."""

    COMPLETE = "complete"
    """The run's worker completes the run."""

    FAIL = "fail"
    """The run's worker or an operator fails the run."""

    EXPIRE = "expire"
    """The time limit of the run passed, or its heartbeats stopped."""


UPLOAD_TRANSITIONS: Final[Mapping[tuple[UploadState, UploadVerb], UploadState]] = MappingProxyType(
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
"""All transitions of an upload with retries left. If no retries are left, RESCUE leads to DEAD.

CANCEL in UPLOADING revokes the lease, so the reactor that held the lease can no longer change the row. CLAIM in
UPLOADING takes over an expired lease.
"""

RUN_TRANSITIONS: Final[Mapping[tuple[RunState, RunVerb], RunState]] = MappingProxyType(
    {
        (RunState.PENDING, RunVerb.BEGIN): RunState.RUNNING,
        (RunState.PENDING, RunVerb.FAIL): RunState.FAILED,
        (RunState.RUNNING, RunVerb.COMPLETE): RunState.COMPLETED,
        (RunState.RUNNING, RunVerb.FAIL): RunState.FAILED,
        (RunState.RUNNING, RunVerb.EXPIRE): RunState.FAILED,
    }
)
"""All transitions of a run. A completed or failed run never changes again."""
