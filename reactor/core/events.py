"""Events: frozen values that the reactor emits. Log lines, metrics and spans are made from them in telemetry/.

Events of uploads are emitted in batches, because the calls are costly; a batch has named tuples, which are quicker to
create. Times are seconds since 1970 by the database's clock, so that a trace of several reactors has one clock. No
event holds a secret, a spool path or an object's content.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from attrs import frozen

from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import TraceContext, Trail


@frozen
class Event:
    """The base of all events."""


@frozen(kw_only=True)
class Listening(Event):
    """The listening connection is live: a notification has come back through it."""


@frozen(kw_only=True)
class ListenerLost(Event):
    """The listening connection has ended, or a notification did not come back."""

    reason: str


@frozen(kw_only=True)
class Polling(Event):
    """Notifications don't arrive; the reactor polls the database every `interval_s` seconds until they do."""

    interval_s: float
    reason: str


@frozen(kw_only=True)
class Notified(Event):
    """A notification has arrived."""

    channel: str
    rows: int
    """How many rows it names; 0 if it asks for a sweep."""


@frozen(kw_only=True)
class NotificationRejected(Event):
    """A notification of unknown form was ignored."""

    channel: str
    reason: str


@frozen(kw_only=True)
class UploadsClaimed(Event):
    """Uploads were claimed; their waits are over."""

    trails: Sequence[Trail]


class AttemptStarted(NamedTuple):
    """An attempt to store an upload has started."""

    upload_id: UUID
    attempt: int
    lag_s: float
    """Seconds from the row's due time until a thread started the attempt."""


@frozen(kw_only=True)
class AttemptsStarted(Event):
    """Attempts have started."""

    attempts: Sequence[AttemptStarted]


class AttemptSettled(NamedTuple):
    """An attempt's outcome is committed."""

    trail: Trail
    outcome: Outcome
    put: tuple[float, float] | None
    """Start and end of reading the spool and writing to the store; None if that was not started."""

    settling_at: float
    """When the settlement was sent to the database."""

    settled_at: float

    @property
    def upload_id(self) -> UUID:
        return self.trail.upload_id

    @property
    def verdict(self) -> Verdict:
        return self.outcome.verdict

    @property
    def put_s(self) -> float:
        """How long `put` took."""
        return 0.0 if self.put is None else self.put[1] - self.put[0]


@frozen(kw_only=True)
class AttemptsSettled(Event):
    """Outcomes of attempts are committed: all or some of one settlement."""

    attempts: Sequence[AttemptSettled]


@frozen(kw_only=True)
class UploadRescued(Event):
    """An upload whose lease expired, or that has no attempts left, is due again or dead."""

    trail: Trail
    verdict: Verdict
    """RETRY or DEAD."""

    code: str | None
    was_leased: bool
    """True if an attempt was claimed and never settled; False if the upload only had no attempts left."""

    rescued_at: float


@frozen
class UploadDied(Event):
    """An upload was given up."""

    upload_id: UUID
    died_at: float
    code: str | None
    message: str | None


@frozen(kw_only=True)
class LeaseLost(Event):
    """Another reactor took over an upload during this reactor's attempt, whose outcome is dropped."""

    upload_id: UUID


@frozen(kw_only=True)
class RunExpired(Event):
    """A stale run was failed."""

    run_id: UUID
    code: str
    late_s: float
    """Seconds from its deadline until it was failed."""

    context: TraceContext
    failed_at: float


@frozen(kw_only=True)
class Rescued(Event):
    """Counts of one rescue: uploads whose lease expired, or that have no attempts left."""

    retried: int
    """How many are due again."""

    buried: int
    """How many are dead."""


@frozen(kw_only=True)
class Swept(Event):
    """One reaction's due rows were read from the database and scheduled."""

    reaction: str
    found: int
    missed: int
    """How many rows were overdue without having been notified."""

    duration_s: float


MOST_LINKS = 128
"""How many links tracing back ends keep per span: the default limit of OpenTelemetry's specification."""


@frozen(kw_only=True)
class Reconciled(Event):
    """A complete pass of the reconciliation has ended."""

    pass_id: UUID
    began_at: float
    ended_at: float
    changed: int
    """How many rows it changed."""

    links: Sequence[TraceContext]
    """The changed rows' places in their traces: all, or at least the first MOST_LINKS."""


@frozen(kw_only=True)
class UsageRepaired(Event):
    """Reconciliation corrected rows of storage_usage."""

    kind: str
    """'reservations': unused for a day and released; 'months': users whose billing month was over."""

    count: int


@frozen(kw_only=True)
class BreakerMoved(Event):
    """The breaker of a store has opened or closed."""

    store: str
    is_open: bool


@frozen(kw_only=True)
class DatabaseLost(Event):
    """A call to the database failed and will be repeated."""

    doing: str
    reason: str


@frozen(kw_only=True)
class ReactorsChanged(Event):
    """Reactors joined or left. Uploads of those that left may be waiting for a rescue."""

    alive: int
    joined: int
    left: int


@frozen(kw_only=True)
class TimerFired(Event):
    """A timer of the wheel fired, `lag_s` seconds late."""

    lag_s: float


EVENT_TYPES = [kind for kind in globals().copy().values() if isinstance(kind, type) and issubclass(kind, Event)]

Emit = Callable[[Event], None]
