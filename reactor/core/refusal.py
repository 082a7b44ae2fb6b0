"""Refusals: why a store, a spool or the database didn't do what the reactor asked for, and which work this affects."""

from enum import StrEnum
from typing import NamedTuple

from attrs import frozen


class Scope(StrEnum):
    """Which work a refusal affects."""

    UPLOAD = "upload"
    """This upload only: a permanent failure."""

    PASSING = "passing"
    """This attempt only: a later attempt may succeed. The reactor retries with backoff."""

    SHARED = "shared"
    """Every upload in the same store, bucket or spool: the attempt isn't counted, and the circuit breaker opens."""


class Guard(StrEnum):
    """The kinds of places that a circuit breaker guards."""

    STORE = "store"
    BUCKET = "bucket"
    SPOOL = "spool"


class Place(NamedTuple):
    """One store, bucket or spool."""

    kind: Guard
    name: str


@frozen(kw_only=True)
class Refusal:
    """One refusal. Created where the answer of a store, a spool or the database is read."""

    scope: Scope

    guard: Guard = Guard.STORE
    """The kind of place that refused: its circuit breaker counts the refusal."""

    reason: str = ""
    """The place's own error code or status, such as ExpiredToken, ENOENT or 23514; empty without one."""

    check: str = ""
    """What to check first: a setting or a command; empty without a hint."""

    retry_after_s: float | None = None
    """The store's Retry-After in seconds; None without one."""

    may_be_shared: bool = False
    """Whether the same refusal of several users, without a success between them, means that it affects everybody."""
