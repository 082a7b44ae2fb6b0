"""Everything that can go wrong, by what the one who meets it should do.

`CATALOGUE` is the single list of public error codes: code, sentence, whether trying again can help, HTTP
status, and the next step. Exceptions carry one of these codes; their class says which branch they belong to:

* `Rejected`: the input is wrong; trying again can't help.
* `Refused`: a rule said no; the row is as it was.
* `Unavailable`: something outside is down; try later.
"""

from typing import Any, ClassVar

from attrs import frozen


@frozen(kw_only=True)
class ErrorCode:
    """One public error code."""

    code: str
    """The word that programs compare."""

    message: str
    """One sentence for people."""

    retryable: bool
    """True when the same call may succeed later without any change."""

    http_status: int
    """What a web API answers with."""

    next_step: str
    """What the caller can do now."""


def _catalogue(*rows: tuple[str, str, bool, int, str]) -> dict[str, ErrorCode]:
    return {
        code: ErrorCode(code=code, message=message, retryable=retryable, http_status=status, next_step=step)
        for code, message, retryable, status, step in rows
    }


CATALOGUE = _catalogue(
    ("STORAGE_QUOTA_EXCEEDED", "The upload doesn't fit into the plan's storage.", False, 402,
     "Delete sources or move to a larger plan, then upload again."),
    ("STORAGE_PENDING", "The source isn't stored yet.", True, 409,
     "Wait until its storage_status is 'uploaded', then begin again."),
    ("STORAGE_PENDING_RETRY", "The first attempt failed; the upload is queued and will be retried.", True, 202,
     "Nothing: the reactor stores it. Watch storage_status."),
    ("STORAGE_UPLOAD_FAILED", "The upload was given up after all its retries.", False, 502,
     "Look at its errors, mend the cause, then retry it with `reactor uploads retry`."),
    ("STORAGE_UNAVAILABLE", "The object store didn't answer, or said that it can't right now.", True, 503,
     "Nothing: it is tried again with backoff."),
    ("STORAGE_REJECTED", "The object store refused the upload.", False, 422,
     "Check the store's credentials, its bucket and the object's path, then retry it."),
    ("SPOOL_FILE_MISSING", "The spooled file isn't there or can't be read.", False, 404,
     "Put the file back under the same path, then retry it; or cancel it."),
    ("SPOOL_PATH_FORBIDDEN", "The path doesn't name a plain file inside the spool.", False, 422,
     "Queue the upload again with a path inside a configured spool."),
    ("CONTENT_MISMATCH", "The spooled bytes don't have the recorded size or SHA-256.", False, 422,
     "Spool the right bytes, then retry it; or cancel it."),
    ("FILE_TOO_LARGE", "The object store takes no file of this size.", False, 413,
     "Split the file, or raise the store's limit."),
    ("INVALID_ARGUMENT", "An argument isn't valid.", False, 400, "Correct the argument that is named."),
    ("NOT_FOUND", "There is no such row.", False, 404, "Check the id."),
    ("NOT_ALLOWED", "The caller may not do this.", False, 403, "Act as the owner, or as the service role."),
    ("INTERPRETATION_IN_PROGRESS", "The source is being interpreted already.", True, 409,
     "Wait for the running interpretation to end."),
    ("INTERPRETATION_QUOTA_EXCEEDED", "The plan's interpretations of this month are used up.", False, 402,
     "Wait until resets_at, or move to a larger plan."),
    ("INTERPRETATION_TIMEOUT", "The run passed its deadline and was failed.", True, 408,
     "Stop working on it; begin a new one."),
    ("INTERPRETATION_HEARTBEAT_LOST", "The run's worker stopped sending heartbeats; it was failed.", True, 408,
     "Stop working on it; begin a new one."),
    ("INTERPRETATION_FAILED", "The interpretation failed.", False, 500, "Look at its error, then begin a new one."),
    ("CONFIG_INVALID", "A setting isn't valid.", False, 500, "Correct the setting that is named."),
    ("MIGRATION_CHANGED", "A migration that was applied has been edited.", False, 500,
     "Restore the file as it was released; put changes into a new one."),
    ("DATABASE_UNAVAILABLE", "The database can't be reached, or isn't ready for the reactor.", True, 503,
     "Check the database URL, the server and the role."),
)  # fmt: skip


class ReactorError(Exception):
    """Base class. Catch it; never raise it."""

    code: ClassVar[str]

    def __init_subclass__(cls, *, code: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if code is not None:
            cls.code = CATALOGUE[code].code

    @property
    def retryable(self) -> bool:
        return CATALOGUE[self.code].retryable


class Rejected(ReactorError):
    """The input is wrong; trying again can't help."""


class Refused(ReactorError):
    """A rule said no; the row is as it was."""


class Unavailable(ReactorError):
    """Something outside is down; try later."""


class ConfigInvalid(Rejected, code="CONFIG_INVALID"):
    """One or more settings are wrong. `problems` holds one line for each, naming the setting and the fix."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class MigrationChanged(Rejected, code="MIGRATION_CHANGED"):
    """A migration file differs from what was applied under its name."""


class NotFound(Rejected, code="NOT_FOUND"):
    """No row has the id that was named."""


class DatabaseUnavailable(Unavailable, code="DATABASE_UNAVAILABLE"):
    """The database didn't answer, refused the connection, or lacks what the reactor needs."""


class StorageUnavailable(Unavailable, code="STORAGE_UNAVAILABLE"):
    """The object store can't take the upload now: refused, reset, timed out, or 408, 425, 429, 5xx.

    `retry_after_s` is the store's own wish in seconds (its Retry-After), None when it said nothing.
    """

    def __init__(self, message: str, *, http_status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.retry_after_s = retry_after_s


class StorageRejected(Rejected, code="STORAGE_REJECTED"):
    """The object store refused the upload for good: 400, 404 bucket, and the like.

    `denied` is True for 401 and 403, which get one more try: credentials may be rotating.
    """

    def __init__(self, message: str, *, http_status: int | None = None, denied: bool = False) -> None:
        super().__init__(message)
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
