"""The exceptions, in three branches: `Rejected` (wrong input), `Refused` (by a rule), `Unavailable` (retry later).

Each exception has one code. The catalogue (reactor/core/error_codes.py) defines for each code whether a retry can
help, the HTTP status and the next step.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from reactor.core.error_codes import CATALOGUE, ErrorCode
from reactor.core.printable import printable
from reactor.core.refusal import Guard, Refusal, Scope


class ReactorError(Exception):
    """Base class of the exceptions. Never raised itself."""

    code: ClassVar[str]

    refusal = Refusal(scope=Scope.UPLOAD)
    """Which work the error affects if it ends an attempt to store an upload."""

    def __init_subclass__(cls, *, code: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if code is not None:
            assert code not in _CLASS_OF, f"{_CLASS_OF[code]} is the class of {code}"  # noqa: S101  # at import
            cls.code = CATALOGUE[code].code
            _CLASS_OF[code] = cls

    def __init__(self, message: str | None = None, *, details: Mapping[str, Any] | None = None) -> None:
        """`message` is for people; None means the catalogue's message. `details` is for programs."""
        super().__init__(CATALOGUE[self.code].message if message is None else message)
        self.details = dict(details or {})

    @property
    def catalogued(self) -> ErrorCode:
        """The catalogue's entry of this code, with http_status and next_step."""
        return CATALOGUE[self.code]

    @property
    def http_status(self) -> int:
        """The status with which a web API responds to its own caller."""
        return self.catalogued.http_status

    @property
    def next_step(self) -> str:
        """What the caller can do next, in one sentence."""
        return self.catalogued.next_step

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later without any change."""
        return self.catalogued.retryable

    def to_dict(self) -> dict[str, Any]:
        """Return the object that the SQL functions return for a refusal: ok, code, message, retryable, details."""
        answer = {"ok": False, "code": self.code, "message": str(self)}
        return answer | {"retryable": self.retryable, "details": self.details}


_CLASS_OF: dict[str, type[ReactorError]] = {}


def error_of(code: str, message: str, details: Mapping[str, Any]) -> ReactorError:
    """Return the exception of a code. Raises KeyError for a code that this version doesn't define."""
    error = _CLASS_OF[code](message)
    error.details = dict(details)
    return error


class Rejected(ReactorError):
    """The input is wrong; a retry can't help."""


class Refused(ReactorError):
    """A rule forbids the call; the row is unchanged."""


class Unavailable(ReactorError):
    """The database or the object store is unavailable; retry later."""


class ConfigInvalid(Rejected, code="CONFIG_INVALID"):
    """One or more settings are wrong. `problems` has a line for each wrong setting: its name and the fix."""

    def __init__(self, *problems: str) -> None:
        self.problems = tuple(printable(problem, replacement=" ") for problem in problems)
        super().__init__("; ".join(self.problems))


class MigrationChanged(Rejected, code="MIGRATION_CHANGED"):
    """A migration file was edited after it was applied, or the database has a migration that this version lacks."""


class InvalidArgument(Rejected, code="INVALID_ARGUMENT"):
    """An argument isn't valid; details: argument."""


class NotFound(Rejected, code="NOT_FOUND"):
    """The caller has no row with this id."""


class NotAllowed(Refused, code="NOT_ALLOWED"):
    """The caller acts for another user, or the row's state doesn't allow it."""


class StorageQuotaExceeded(Refused, code="STORAGE_QUOTA_EXCEEDED"):
    """The upload doesn't fit into the plan's storage.

    Details: plan, limit_bytes, used_bytes, reserved_bytes, requested_bytes.
    """


class StoragePending(Refused, code="STORAGE_PENDING"):
    """The source isn't stored yet, so it can't be interpreted."""


class StorageUploadFailed(Refused, code="STORAGE_UPLOAD_FAILED"):
    """The source's upload failed for good; details: queue_id or source_id."""


class InterpretationInProgress(Refused, code="INTERPRETATION_IN_PROGRESS"):
    """The source is being interpreted; details: run_id, timeout_at."""


class InterpretationQuotaExceeded(Refused, code="INTERPRETATION_QUOTA_EXCEEDED"):
    """The month's interpretations are used up; details: plan, limit, used, resets_at."""


class InterpretationTimeout(Refused, code="INTERPRETATION_TIMEOUT"):
    """The run passed its deadline, and a reactor failed it; its worker must stop."""


class InterpretationHeartbeatLost(Refused, code="INTERPRETATION_HEARTBEAT_LOST"):
    """The run's heartbeats stopped, and a reactor failed the run; its worker must stop."""


class InterpretationFailed(Refused, code="INTERPRETATION_FAILED"):
    """The run has failed already: its worker or an operator failed it."""


class DatabaseFailure(ReactorError):
    """A call to the database failed: `DatabaseUnavailable`, `DatabaseForbidden` or `DatabaseRefused`."""


TAKES_NO_WRITES: Final = "the server takes no writes"
"""Begins the reason of a call that failed because the server is a standby or read-only."""


class DatabaseUnavailable(DatabaseFailure, Unavailable, code="DATABASE_UNAVAILABLE"):
    """The database didn't answer, refused the connection, or is busy; retry later.

    `is_busy` is True if the server answered that another session is in the way: a lock, a deadlock, a time limit.
    """

    refusal = Refusal(scope=Scope.PASSING)

    def __init__(self, message: str | None = None, *, is_busy: bool = False) -> None:
        super().__init__(message)
        self.is_busy = is_busy


class DatabaseForbidden(DatabaseFailure, Rejected, code="DATABASE_FORBIDDEN"):
    """The role lacks a privilege, or a migration is missing; a retry can't help."""

    refusal = Refusal(scope=Scope.SHARED)


class DatabaseRefused(DatabaseFailure, Rejected, code="DATABASE_REFUSED"):
    """The database refused these rows: a CHECK, trigger, foreign key or type of the app. `sqlstate` says why."""

    def __init__(self, message: str | None = None, *, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.refusal = Refusal(scope=Scope.UPLOAD, reason=sqlstate)


class StorageUnavailable(Unavailable, code="STORAGE_UNAVAILABLE"):
    """The object store can't take the upload now: connection refused or reset, timeout, throttling or 5xx.

    `retry_after_s` is the store's Retry-After in seconds; None if the store sent none.
    """

    def __init__(
        self, message: str | None = None, *, http_status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.store_http_status = http_status
        self.refusal = Refusal(scope=Scope.PASSING, reason=str(http_status or ""), retry_after_s=retry_after_s)


class StorageRejected(Rejected, code="STORAGE_REJECTED"):
    """The object store refused this upload for good, for example because it doesn't allow the object's key.

    `may_be_shared` is True for a refusal such as 403 AccessDenied, which affects everybody if several users get it.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        http_status: int | None = None,
        reason: str = "",
        check: str = "",
        may_be_shared: bool = False,
    ) -> None:
        super().__init__(message)
        self.store_http_status = http_status
        self.refusal = Refusal(
            scope=Scope.UPLOAD,
            guard=Guard.BUCKET,
            reason=reason or str(http_status or ""),
            check=check,
            may_be_shared=may_be_shared,
        )


class StorageRefused(Refused, code="STORAGE_REFUSED"):
    """The object store refuses the reactor, not the upload: credentials, clock, region, route or a missing bucket."""

    def __init__(
        self,
        message: str | None = None,
        *,
        http_status: int | None = None,
        guard: Guard = Guard.STORE,
        reason: str = "",
        check: str = "",
    ) -> None:
        super().__init__(message)
        self.store_http_status = http_status
        self.refusal = Refusal(scope=Scope.SHARED, guard=guard, reason=reason or str(http_status or ""), check=check)


class SpoolUnavailable(Unavailable, code="SPOOL_UNAVAILABLE"):
    """The spool can't be reached: its directory is missing, unmounted or fails. `reason` is the system's error name.

    Its scope is PASSING when the reactor, and not the spool, lacks something, such as memory.
    """

    def __init__(self, message: str | None = None, *, reason: str = "", scope: Scope = Scope.SHARED) -> None:
        super().__init__(message)
        self.refusal = Refusal(scope=scope, guard=Guard.SPOOL, reason=reason, check="REACTOR_SPOOL_DIR, REACTOR_SPOOLS")


class FileTooLarge(Rejected, code="FILE_TOO_LARGE"):
    """The object is larger than the object store accepts (413, EntityTooLarge)."""


class SpoolFileMissing(Rejected, code="SPOOL_FILE_MISSING"):
    """The spooled file doesn't exist, or can't be read.

    `may_be_shared` is True for an error such as EACCES, which affects everybody if several users get it.
    """

    def __init__(self, message: str | None = None, *, reason: str = "", may_be_shared: bool = False) -> None:
        super().__init__(message)
        self.refusal = Refusal(
            scope=Scope.UPLOAD, guard=Guard.SPOOL, reason=reason if may_be_shared else "", may_be_shared=may_be_shared
        )


class SpoolPathForbidden(Rejected, code="SPOOL_PATH_FORBIDDEN"):
    """The path leaves the spool, follows a link, or doesn't name a plain file."""

    refusal = Refusal(scope=Scope.UPLOAD, guard=Guard.SPOOL)


class ContentMismatch(Rejected, code="CONTENT_MISMATCH"):
    """The bytes don't have the size or the SHA-256 of the row."""

    refusal = Refusal(scope=Scope.UPLOAD, guard=Guard.SPOOL)
