"""Converts the answers of the SQL functions: a refusal into its exception, a success into an attrs object."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

from attrs import frozen
from cattrs import Converter

from reactor.core.errors import DatabaseUnavailable, error_of

A = TypeVar("A")

_converter = Converter()
_converter.register_structure_hook(UUID, lambda value, _: UUID(value))
_converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))


def accepted(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer if it is a success; if it is a refusal, raise the exception of its code.

    The exception has the names of arguments without the `p_` of SQL. Raises DatabaseUnavailable for a code that this
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
    """Return a success as a `kind`, and ignore the keys that `kind` lacks. Raises the errors of `accepted`."""
    return _converter.structure(accepted(answer), kind)


@frozen(kw_only=True)
class Reservation:
    """A source whose bytes are reserved, or that is already stored."""

    source_id: UUID
    deduplicated: bool
    """True if the user already had a source with this content. Bytes were reserved only if that source had failed."""

    storage_status: Literal["pending", "uploaded"]
    """'pending': the app must store the object, then call complete_upload. 'uploaded': the object is stored."""

    storage_url: str | None
    """URL of the object; None until the object is stored."""


@frozen(kw_only=True)
class StoredSource:
    """A source that is stored."""

    source_id: UUID
    storage_url: str | None
    storage_status: Literal["uploaded"]


@frozen(kw_only=True)
class PendingRetry:
    """An upload that is queued for the reactor, or was stored in the meantime."""

    source_id: UUID
    queue_id: UUID | None
    """The upload's id in the queue; None if the source has been stored in the meantime."""

    storage_status: Literal["pending", "uploaded"]
    """'pending', or 'uploaded' if the source has been stored in the meantime."""

    code: Literal["STORAGE_PENDING_RETRY"] | None = None
    """STORAGE_PENDING_RETRY if the upload is queued; else None."""


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
    """When the next month starts. Then interpretations_used becomes 0."""

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
    """The run's W3C trace context. The reactor's spans appear in this trace; the worker can add its own spans."""
