"""The public error codes: one list, from which all others are made or held against.

Exceptions take their words from here (reactor/core/errors.py); the SQL functions' answers, from
schema/functions/error_catalogue.sql; readers, from the table in README.md. A test proves that the three agree, and
writes the latter two anew.
"""

from types import MappingProxyType
from typing import Final

from attrs import frozen


@frozen
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

    sqlstate: str | None = None
    """What PostgreSQL raises where a trigger refuses a direct write; None where none does."""


_ALL = (
    ErrorCode("STORAGE_QUOTA_EXCEEDED", "The upload doesn't fit into the plan's storage.", False, 402,
              "Delete sources or move to a larger plan, then upload again.", "RX101"),
    ErrorCode("STORAGE_PENDING", "The source isn't stored yet.", True, 409,
              "Wait until its storage_status is 'uploaded', then begin again."),
    ErrorCode("STORAGE_PENDING_RETRY", "The first attempt failed; the upload is queued and will be retried.", True, 202,
              "Nothing: the reactor stores it. Watch storage_status."),
    ErrorCode("STORAGE_UPLOAD_FAILED", "The upload was given up after all its retries.", False, 502,
              "Reserve and store it again; or mend the cause, then retry it with `reactor uploads retry`."),
    ErrorCode("STORAGE_UNAVAILABLE", "The object store didn't answer, or said that it can't right now.", True, 503,
              "Nothing: it is tried again with backoff."),
    ErrorCode("STORAGE_REJECTED", "The object store refused the upload.", False, 422,
              "Check the store's credentials, its bucket and the object's path, then retry it."),
    ErrorCode("SPOOL_FILE_MISSING", "The spooled file isn't there or can't be read.", False, 404,
              "Put the file back under the same path, then retry it; or cancel it."),
    ErrorCode("SPOOL_PATH_FORBIDDEN", "The path doesn't name a plain file inside the spool.", False, 422,
              "Queue the upload again with a path inside a configured spool."),
    ErrorCode("CONTENT_MISMATCH", "The spooled bytes don't have the recorded size or SHA-256.", False, 422,
              "Spool the right bytes, then retry it; or cancel it."),
    ErrorCode("FILE_TOO_LARGE", "The object store takes no file of this size.", False, 413,
              "Split the file, or raise the store's limit."),
    ErrorCode("INVALID_ARGUMENT", "An argument isn't valid.", False, 400, "Correct the argument that is named."),
    ErrorCode("NOT_FOUND", "There is no such row.", False, 404, "Check the id."),
    ErrorCode("NOT_ALLOWED", "The caller may not do this.", False, 403, "Act as the owner, or as the service role."),
    ErrorCode("INTERPRETATION_IN_PROGRESS", "The source is being interpreted already.", True, 409,
              "Wait for the running interpretation to end."),
    ErrorCode("INTERPRETATION_QUOTA_EXCEEDED", "The plan's interpretations of this month are used up.", False, 402,
              "Wait until resets_at, or move to a larger plan.", "RX102"),
    ErrorCode("INTERPRETATION_TIMEOUT", "The run passed its deadline and was failed.", True, 408,
              "Stop working on it; begin a new one."),
    ErrorCode("INTERPRETATION_HEARTBEAT_LOST", "The run's worker stopped sending heartbeats; it was failed.", True, 408,
              "Stop working on it; begin a new one."),
    ErrorCode("INTERPRETATION_FAILED", "The interpretation failed.", False, 500,
              "Look at its error, then begin a new one."),
    ErrorCode("CONFIG_INVALID", "A setting isn't valid.", False, 500, "Correct the setting that is named."),
    ErrorCode("MIGRATION_CHANGED", "A migration that was applied has been edited.", False, 500,
              "Restore the file as it was released; put changes into a new one."),
    ErrorCode("DATABASE_UNAVAILABLE", "The database can't be reached, or isn't ready for the reactor.", True, 503,
              "Check the database URL, the server and the role."),
)  # fmt: skip

CATALOGUE: Final = MappingProxyType({error.code: error for error in _ALL})
"""Every public error code, by its word."""
