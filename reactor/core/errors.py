"""Everything that can go wrong, by what the one who meets it should do.

Each exception carries one code of the catalogue (reactor/core/error_codes.py), and takes from there whether trying
again can help, the HTTP status, and the next step. Its class says which branch it belongs to:

* `Rejected`: the input is wrong; trying again can't help.
* `Refused`: a rule said no; the row is as it was.
* `Unavailable`: something outside is down; try later.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from reactor.core.error_codes import CATALOGUE, ErrorCode


class ReactorError(Exception):
    """Base class. Catch it; never raise it."""

    code: ClassVar[str]

    def __init_subclass__(cls, *, code: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if code is not None:
            assert code not in _CLASS_OF, f"{_CLASS_OF[code]} is the class of {code}"  # noqa: S101  # at import
            cls.code = CATALOGUE[code].code
            _CLASS_OF[code] = cls

    def __init__(self, message: str | None = None, *, details: Mapping[str, Any] | None = None) -> None:
        """`message` is for people, by default the catalogue's; `details` are what programs can act on."""
        super().__init__(CATALOGUE[self.code].message if message is None else message)
        self.details = dict(details or {})

    @property
    def catalogued(self) -> ErrorCode:
        """What the catalogue says of it: http_status for a web API, next_step for whoever has to act."""
        return CATALOGUE[self.code]

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later without any change."""
        return self.catalogued.retryable

    def to_dict(self) -> dict[str, Any]:
        """Return it as the SQL functions answer it: ok, code, message, retryable, details."""
        return {
            "ok": False,
            "code": self.code,
            "message": str(self),
            "retryable": self.retryable,
            "details": self.details,
        }


_CLASS_OF: dict[str, type[ReactorError]] = {}


def error_of(code: str, message: str | None = None, details: Mapping[str, Any] | None = None) -> ReactorError:
    """Return the exception of a code. Raises KeyError for a code that this version doesn't know."""
    return _CLASS_OF[code](message, details=details)


class Rejected(ReactorError):
    """The input is wrong; trying again can't help."""


class Refused(ReactorError):
    """A rule said no; the row is as it was."""


class Unavailable(ReactorError):
    """Something outside is down; try later."""


class ConfigInvalid(Rejected, code="CONFIG_INVALID"):
    """One or more settings are wrong. `problems` holds one line for each, naming the setting and the fix."""

    def __init__(self, *problems: str) -> None:
        # a variable's or a key's own name may hold anything, and a terminal should get no escape sequences
        self.problems = tuple("".join(c if c.isprintable() else " " for c in problem) for problem in problems)
        super().__init__("; ".join(self.problems))


class MigrationChanged(Rejected, code="MIGRATION_CHANGED"):
    """A migration file differs from what was applied under its name."""


class InvalidArgument(Rejected, code="INVALID_ARGUMENT"):
    """An argument isn't valid; details: argument."""


class NotFound(Rejected, code="NOT_FOUND"):
    """No row of the caller's has the id that was named."""


class NotAllowed(Refused, code="NOT_ALLOWED"):
    """The caller acts for somebody else, or in a state that doesn't allow it."""


class StorageQuotaExceeded(Refused, code="STORAGE_QUOTA_EXCEEDED"):
    """The upload doesn't fit; details: plan, limit_bytes, used_bytes, reserved_bytes, requested_bytes."""


class StoragePending(Refused, code="STORAGE_PENDING"):
    """The source isn't stored yet, so it can't be interpreted."""


class StorageUploadFailed(Refused, code="STORAGE_UPLOAD_FAILED"):
    """The source's upload was given up; details: queue_id, where there is one."""


class InterpretationInProgress(Refused, code="INTERPRETATION_IN_PROGRESS"):
    """The source is being interpreted; details: run_id, timeout_at."""


class InterpretationQuotaExceeded(Refused, code="INTERPRETATION_QUOTA_EXCEEDED"):
    """The month's interpretations are used up; details: plan, limit, used, resets_at."""


class InterpretationTimeout(Refused, code="INTERPRETATION_TIMEOUT"):
    """The run passed its deadline: it is no longer its worker's."""


class InterpretationHeartbeatLost(Refused, code="INTERPRETATION_HEARTBEAT_LOST"):
    """The run's heartbeats stopped for too long: it is no longer its worker's."""


class InterpretationFailed(Refused, code="INTERPRETATION_FAILED"):
    """The run was failed by somebody else, or by its own worker before."""


class DatabaseUnavailable(Unavailable, code="DATABASE_UNAVAILABLE"):
    """The database didn't answer, refused the connection, or lacks what the reactor needs."""


class StorageUnavailable(Unavailable, code="STORAGE_UNAVAILABLE"):
    """The object store can't take the upload now: refused, reset, timed out, or 408, 425, 429, 5xx.

    `retry_after_s` is the store's own wish in seconds (its Retry-After), None when it said nothing.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.http_status = http_status
        self.retry_after_s = retry_after_s


class StorageRejected(Rejected, code="STORAGE_REJECTED"):
    """The object store refused the upload for good: 400, 404 bucket, and the like.

    `denied` is True for 401 and 403, which get one more try: credentials may be rotating.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        http_status: int | None = None,
        denied: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, details=details)
        self.http_status = http_status
        self.denied = denied


class FileTooLarge(Rejected, code="FILE_TOO_LARGE"):
    """The object store takes no object of this size (413, EntityTooLarge)."""


class SpoolFileMissing(Rejected, code="SPOOL_FILE_MISSING"):
    """The spooled file isn't there, or can't be read."""


class SpoolPathForbidden(Rejected, code="SPOOL_PATH_FORBIDDEN"):
    """The path leaves the spool, passes a link, or names something that is no plain file."""


class ContentMismatch(Rejected, code="CONTENT_MISMATCH"):
    """The bytes don't have the size or the SHA-256 that the row says."""
