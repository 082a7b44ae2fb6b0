"""What the SQL functions answer, as values: a refusal becomes its exception, an answer the class that was asked for."""

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
    """Return the answer, unless it is a refusal; raise that as the exception of its code.

    An argument is named as callers in Python know it, without the p_ that it has in SQL.
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
            f"the database refuses with the code {code}, which this version doesn't know: upgrade reactor"
        ) from None
    raise error


def structured(answer: Mapping[str, Any], kind: type[A]) -> A:
    """Return the accepted answer as a `kind`; what it says more than that is left out."""
    return _converter.structure(accepted(answer), kind)


@frozen(kw_only=True)
class Reservation:
    """A source whose bytes are reserved, or that is stored already."""

    source_id: UUID
    deduplicated: bool
    """True when the user had a source of the same content already: nothing more was reserved for it."""

    storage_status: str
    """'pending': store it, then complete it; 'uploaded': there is nothing to do."""

    storage_url: str | None
    """Where the object is; None until it is stored."""


@frozen(kw_only=True)
class Stored:
    """A source that is stored."""

    source_id: UUID
    storage_url: str | None
    storage_status: str


@frozen(kw_only=True)
class PendingRetry:
    """An upload that is the reactor's now."""

    source_id: UUID
    queue_id: UUID | None
    """The upload in the queue; None when it has been stored meanwhile."""

    storage_status: str
    """'pending', or 'uploaded' when it has been stored meanwhile."""

    code: str | None = None
    """STORAGE_PENDING_RETRY while it is owed."""


@frozen(kw_only=True)
class Usage:
    """What a user may use and uses. Limits and remainders that are None are unlimited; months are UTC."""

    user_id: UUID
    plan: str
    limit_bytes: int | None
    used_bytes: int
    reserved_bytes: int
    """Held for uploads that are still owed to the store."""

    remaining_bytes: int | None
    sources: int
    interpretation_limit: int | None
    interpretations_used: int
    interpretations_remaining: int | None
    billing_month: str
    """The current month, YYYY-MM."""

    resets_at: datetime
    """When the interpretations of the next month begin."""

    last_calculated: datetime | None
    """When the figures were last recounted from rows; None: never."""


@frozen(kw_only=True)
class Begun:
    """An interpretation that has begun."""

    run_id: UUID
    source_id: UUID
    started_at: datetime
    timeout_at: datetime
    heartbeat_timeout_s: float
    traceparent: str
    """W3C trace context of the run: continue it, and the reactor's spans are in the same trace."""
