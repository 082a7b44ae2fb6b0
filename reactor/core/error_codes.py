"""The list of public error codes, with the texts for exceptions, SQL and documentation.

tests/schema/test_error_codes.py checks that this list agrees with the SQL, the table in schema/README.md and the
exceptions of reactor/core/errors.py. The test can also generate the SQL and the table from the list.
"""

from types import MappingProxyType
from typing import Final

from attrs import frozen


@frozen
class ErrorCode:
    """One public error code."""

    code: str
    """The code, for programs."""

    message: str
    """One sentence for people."""

    retryable: bool
    """True when the same call may succeed later without any change."""

    http_status: int
    """The status with which a web API responds."""

    next_step: str
    """What the caller can do next, in one sentence."""

    sqlstate: str | None = None
    """The SQLSTATE that a trigger raises to refuse a direct write; None if no trigger raises this code."""


_ALL = (
    ErrorCode("STORAGE_QUOTA_EXCEEDED", "The upload doesn't fit into the plan's storage.", False, 402,
              "Delete sources or move to a larger plan, then upload again.", "RX101"),
    ErrorCode("STORAGE_PENDING", "The source isn't stored yet.", True, 409,
              "Wait until its storage_status is 'uploaded', then begin the interpretation again."),
    ErrorCode("STORAGE_PENDING_RETRY", "The first attempt failed; the reactor will retry the upload.", True, 202,
              "No action is needed; watch storage_status."),
    ErrorCode("STORAGE_UPLOAD_FAILED", "The upload failed for good, or all its retries failed.", False, 502,
              "Fix the cause and run `reactor uploads retry`, or reserve and store the source again."),
    ErrorCode("STORAGE_UNAVAILABLE", "The object store didn't answer, or reported a temporary failure.", True, 503,
              "No action is needed; the reactor retries with backoff."),
    ErrorCode("STORAGE_REJECTED", "The object store refused the upload.", False, 422,
              "Check the store's credentials, the bucket and the object path, then retry the upload."),
    ErrorCode("STORAGE_REFUSED", "The object store refuses the reactor, not the upload.", True, 503,
              "Check the store's credentials, clock, region and bucket; the uploads continue when the store answers."),
    ErrorCode("SPOOL_UNAVAILABLE", "The spool can't be reached.", True, 503,
              "Mount the spool's directory, or correct REACTOR_SPOOLS; the uploads continue when it can be read."),
    ErrorCode("SPOOL_FILE_MISSING", "The spooled file doesn't exist or can't be read.", False, 404,
              "Put the file back at the same path and retry the upload, or cancel it."),
    ErrorCode("SPOOL_PATH_FORBIDDEN", "The path doesn't name a plain file inside the spool.", False, 422,
              "Queue the upload again with a path inside a configured spool."),
    ErrorCode("CONTENT_MISMATCH", "The spooled bytes don't match the recorded size or SHA-256.", False, 422,
              "Spool the right bytes and retry the upload, or cancel it."),
    ErrorCode("FILE_TOO_LARGE", "The file is larger than the object store accepts.", False, 413,
              "Split the file, or raise the store's limit."),
    ErrorCode("INVALID_ARGUMENT", "An argument isn't valid.", False, 400, "Correct the named argument."),
    ErrorCode("NOT_FOUND", "No row has this id.", False, 404, "Check the id."),
    ErrorCode("NOT_ALLOWED", "The caller isn't allowed to do this.", False, 403,
              "Act as the owner or as the service role."),
    ErrorCode("INTERPRETATION_IN_PROGRESS", "An interpretation of the source is already running.", True, 409,
              "Wait until the running interpretation ends."),
    ErrorCode("INTERPRETATION_QUOTA_EXCEEDED", "The plan's interpretations of this month are used up.", False, 402,
              "Wait until resets_at, or move to a larger plan.", "RX102"),
    ErrorCode("INTERPRETATION_TIMEOUT", "The run passed its deadline, and the reactor failed it.", True, 408,
              "Stop working on this run and begin a new one."),
    ErrorCode("INTERPRETATION_HEARTBEAT_LOST", "The run's heartbeats stopped, and the reactor failed it.", True, 408,
              "Stop working on this run and begin a new one."),
    ErrorCode("INTERPRETATION_FAILED", "The interpretation failed.", False, 500,
              "Read its error_message, then begin a new one."),
    ErrorCode("CONFIG_INVALID", "A setting isn't valid.", False, 500, "Correct the named setting."),
    ErrorCode("MIGRATION_CHANGED", "An applied migration was edited.", False, 500,
              "Restore the released file and put the change into a new migration."),
    ErrorCode("DATABASE_REFUSED", "The database refused the row: a constraint or trigger of the app.", False, 422,
              "Correct the row, or the constraint or trigger that the message names, then retry the upload."),
    ErrorCode("DATABASE_FORBIDDEN", "The role lacks a privilege, or a migration is missing.", False, 500,
              "Run `reactor migrate` as the owner of the tables, and connect with the role reactor_worker."),
    ErrorCode("DATABASE_UNAVAILABLE", "The database can't be reached, or is busy.", True, 503,
              "Check the database URL, the server and the role."),
)  # fmt: skip

CATALOGUE: Final = MappingProxyType({error.code: error for error in _ALL})
"""Maps each code to its ErrorCode."""
