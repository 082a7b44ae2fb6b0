"""The kinds and attributes of spans: the reactor's own attributes, and OpenTelemetry's conventions where they fit.

Source of the conventions: OpenTelemetry semantic conventions 1.44, pages "Messaging spans", "Database client calls" and
"AWS SDK, S3". They are few, because each attribute costs some 3 µs of CPU. Object paths and file names are left out,
because they may contain personal data.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind

from reactor.core.error_codes import CATALOGUE
from reactor.core.events import RunExpired
from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import Trail

Attribute = str | int | float
Attributes = Mapping[str, Attribute]

_CACHE_SIZE = 10_000

KINDS: Final = {
    "upload.queued": SpanKind.PRODUCER,
    "upload.attempt": SpanKind.CONSUMER,
    "upload.put": SpanKind.CLIENT,
    "upload.settle": SpanKind.CLIENT,
}
"""Maps names of spans to their kind. Other spans are INTERNAL."""

_QUEUE: Final = {"messaging.system": "reactor", "messaging.destination.name": "upload_queue"}
_SEND: Final = {**_QUEUE, "messaging.operation.type": "send"}
_PROCESS: Final = {**_QUEUE, "messaging.operation.type": "process"}
_SETTLE: Final = {"db.system.name": "postgresql", "db.stored_procedure.name": "reactor.settle_uploads"}

_SHARED: Final = ("service.name", "service.namespace", "service.version", "deployment.environment.name")


def shared_resource(resource: Resource) -> Resource:
    """Return the part of a resource that all reactors of a deployment have in common."""
    return Resource({name: resource.attributes[name] for name in _SHARED if name in resource.attributes})


@lru_cache(_CACHE_SIZE)
def about(trail: Trail) -> Attributes:
    """Return the attributes that most spans of an upload have."""
    return {
        "upload.id": str(trail.upload_id),
        "user.id": str(trail.user_id),
        "upload.bucket": trail.bucket,
        "upload.bytes": trail.size_bytes,
    }


def queued(trail: Trail) -> Attributes:
    return {**about(trail), **_SEND}


def backoff(trail: Trail) -> Attributes:
    return {"upload.id": str(trail.upload_id), "upload.attempt": trail.attempt, **_lag(trail)}


def attempt(trail: Trail, outcome: Outcome, *, is_previous: bool = False) -> Attributes:
    """Return the attributes of the trail's attempt; with `is_previous`, of the lost attempt before it."""
    attributes: dict[str, Attribute] = {**about(trail), **_PROCESS, "upload.outcome": outcome.verdict.value}
    if is_previous:  # a lost attempt is counted, so the attempt that takes over has the next number
        attributes["upload.attempt"] = trail.attempt - 1
    else:
        attributes |= {"upload.attempt": trail.attempt, **_lag(trail)}
    if outcome.verdict is not Verdict.STORED and outcome.code is not None:
        attributes["error.type"] = outcome.code
    if outcome.verdict is Verdict.DEFERRED and outcome.message is not None:
        attributes["upload.error_message"] = (
            outcome.message
        )  # the span is no error, so its status can't have the message
    if outcome.delay_s:
        attributes["upload.retry_in_s"] = round(outcome.delay_s, 3)
    return attributes


def put(trail: Trail, store_name: str) -> Attributes:
    """Return the attributes of writing to the store. `store_name` is `ObjectStore.name`, such as 's3:host'."""
    kind, _, host = store_name.partition(":")
    attributes: dict[str, Attribute] = {
        "upload.id": str(trail.upload_id), "upload.bucket": trail.bucket, "upload.bytes": trail.size_bytes,
    }  # fmt: skip
    if kind == "s3":
        attributes["aws.s3.bucket"] = trail.bucket
    if host:
        attributes["server.address"] = host
    return attributes


def settle(trail: Trail) -> Attributes:
    return {"upload.id": str(trail.upload_id), **_SETTLE}


def whole(trail: Trail, outcome: Outcome) -> Attributes:
    """Return the attributes of the whole upload. A dead one has the reason, the next step, and the command to retry."""
    attributes: dict[str, Attribute] = {
        **about(trail), "upload.attempt": trail.attempt, "upload.outcome": outcome.verdict.value,
    }  # fmt: skip
    if outcome.code is not None:
        attributes["error.type"] = outcome.code
    if outcome.message is not None:
        attributes["upload.error_message"] = outcome.message
    if outcome.verdict is Verdict.DEAD:
        if (entry := CATALOGUE.get(outcome.code or "")) is not None:
            attributes["upload.next_step"] = entry.next_step
        attributes["upload.retry_command"] = f"reactor uploads retry {trail.upload_id}"
    return attributes


def timeout(event: RunExpired) -> Attributes:
    attributes = {"interpretation.id": str(event.run_id), "error.type": event.code}
    return attributes if event.user_id is None else {**attributes, "user.id": str(event.user_id)}


def _lag(trail: Trail) -> Attributes:
    """Return the attribute for the time from the due time of the upload until its claim."""
    due_at = trail.due_at if trail.waited_since is None else max(trail.due_at, trail.waited_since)
    return {"reactor.wheel_lag_ms": round(1000 * max(0.0, trail.claimed_at - due_at), 3)}
