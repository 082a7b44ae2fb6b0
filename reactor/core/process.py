"""The state of one reactor, as its page shows it."""

from collections.abc import Mapping, Sequence

from attrs import frozen

from reactor.core.breakers import OpenBreaker


@frozen(kw_only=True)
class Fault:
    """Calls to the database that fail now."""

    doing: str
    """What the calls would do, such as "claim uploads"."""

    reason: str
    lasts_s: float
    """Seconds from the first failure to the last one."""

    is_outage: bool
    """Whether even the simplest calls fail. Then all calls do, and no notification arrives."""


@frozen(kw_only=True)
class Process:
    """The state of one reactor."""

    instance: str
    """Its id in `database["reactors"]`."""

    mode: str
    """'starting', 'listening' or 'polling'."""

    mode_for_s: float
    """Seconds for which the reactor has been in this mode."""

    mode_reason: str
    """Why the reactor does not listen; empty if it listens, or if the reason isn't known."""

    fault: Fault | None
    """The calls to the database that fail; None if none fails."""

    not_ready: Sequence[str]
    """Why the reactor is not ready, one line per reason."""

    open_breakers: Sequence[tuple[OpenBreaker, float]]
    """The stores, buckets and spools with an open circuit breaker, each with the seconds since it opened."""

    refused: Mapping[str, tuple[int, str]]
    """Maps each reaction with rows that the database refuses to their number and the database's message."""

    lag_s: float
    """The delay of timers in the last minutes, 95th percentile."""

    spool_free_bytes: int | None
    """Free space of the spool with the least free space; None when unknown."""

    spans_lost: int = 0
    """Number of spans that the collector has not received since the start."""

    spans_lost_ago_s: float = 0.0
    """Seconds since the last span was lost."""
