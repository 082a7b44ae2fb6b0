"""Answers of the SQL functions as typed values: a refusal becomes its exception, a success becomes an attrs object."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from attrs import frozen
from cattrs import Converter

from reactor.core.errors import DatabaseUnavailable, error_of

A = TypeVar("A")

_converter = Converter()
_converter.register_structure_hook(UUID, lambda value, _: UUID(value))
_converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))


def accepted(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer of a success; raise a refusal as the exception of its code.

    The error names an argument as in Python, without the `p_` of SQL. Raises DatabaseUnavailable for a code that this
    version does not define.
    """
    if answer["ok"]:
        return answer
    code, message, details = answer["code"], answer["message"], dict(answer["details"])
    if argument := details.get("argument"):
        details["argument"] = argument.removeprefix("p_")
        message = message.replace(argument, details["argument"])
    try:
        error = error_of(code, message, details)
    except KeyError:
        raise DatabaseUnavailable(
            f"the database refuses with code {code}, which this version does not define: upgrade reactor"
        ) from None
    raise error


def structured(answer: Mapping[str, Any], kind: type[A]) -> A:
    """Return the answer of a success as a `kind`, ignoring keys that `kind` does not have. Raises as `accepted`."""
    return _converter.structure(accepted(answer), kind)


@frozen(kw_only=True)
class Reservation:
    """A source whose bytes are reserved, or that is already stored."""

    source_id: UUID
    deduplicated: bool
    """True if the user already had a source with this content; then nothing was reserved."""

    storage_status: str
    """'pending': store the object, then call complete_upload. 'uploaded': nothing left to do."""

    storage_url: str | None
    """Where the object is; None until it is stored."""


@frozen(kw_only=True)
class StoredSource:
    """A source that is stored."""

    source_id: UUID
    storage_url: str | None
    storage_status: str
    """'uploaded'."""


@frozen(kw_only=True)
class PendingRetry:
    """An upload that the reactor will store."""

    source_id: UUID
    queue_id: UUID | None
    """The upload's id in the queue; None if the source has been stored in the meantime."""

    storage_status: str
    """'pending', or 'uploaded' if the source has been stored in the meantime."""

    code: str | None = None
    """STORAGE_PENDING_RETRY while the upload is queued, else None."""


@frozen(kw_only=True)
class Usage:
    """A user's plan, limits and usage. A limit or remainder of None means unlimited. Months are UTC."""

    user_id: UUID
    plan: str
    limit_bytes: int | None
    used_bytes: int
    """Bytes of stored sources."""

    reserved_bytes: int
    """Bytes of sources that are not stored yet."""

    remaining_bytes: int | None
    sources: int
    """Number of stored sources."""

    interpretation_limit: int | None
    interpretations_used: int
    interpretations_remaining: int | None
    billing_month: str
    """The month of the interpretation figures, YYYY-MM."""

    resets_at: datetime
    """When the next month starts, which sets interpretations_used to 0."""

    last_calculated: datetime | None
    """When the figures were last recalculated from the rows; None: never."""


@frozen(kw_only=True)
class StartedRun:
    """An interpretation run that has started."""

    run_id: UUID
    source_id: UUID
    started_at: datetime
    timeout_at: datetime
    heartbeat_timeout_s: float
    traceparent: str
    """The run's W3C trace context. Continue it, and the reactor's spans appear in the same trace."""
