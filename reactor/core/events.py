"""Events: frozen values that the reactor emits. Log lines, metrics and spans are made from them in telemetry/.

Most events of uploads are emitted in batches, because each call of `Emit` is slow. A batch contains named tuples, which
are faster to create than attrs classes. Times are seconds since 1970 by the database's clock, so that all reactors of a
trace use the same clock. No event contains a secret, a spool path or an object's content.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from attrs import frozen

from reactor.core.breakers import OpenBreaker
from reactor.core.model import Outcome, Verdict
from reactor.core.refusal import Place
from reactor.core.trace_context import TraceContext, Trail


@frozen
class Event:
    """The base of all events."""


@frozen(kw_only=True)
class Listening(Event):
    """A canary has arrived on the listening connection: notifications arrive."""


@frozen(kw_only=True)
class ListenerLost(Event):
    """The listening connection has ended, or a canary did not arrive on it."""

    reason: str


@frozen(kw_only=True)
class Polling(Event):
    """Notifications don't arrive. Until they arrive, the reactor polls the database every `interval_s` seconds."""

    interval_s: float
    reason: str


@frozen(kw_only=True)
class Notified(Event):
    """A notification has arrived."""

    channel: str
    rows: int
    """Number of rows that the notification names; 0 if it only requests a reconciliation pass."""


@frozen(kw_only=True)
class NotificationRejected(Event):
    """A notification with an invalid payload was ignored."""

    channel: str
    reason: str


@frozen(kw_only=True)
class UploadsClaimed(Event):
    """Uploads were claimed."""

    trails: Sequence[Trail]


class AttemptStarted(NamedTuple):
    """An attempt to store an upload has started."""

    upload_id: UUID
    attempt: int
    lag_s: float
    """Seconds from the row's due time to the start of the attempt, at least 0."""


@frozen(kw_only=True)
class AttemptsStarted(Event):
    """Attempts have started."""

    attempts: Sequence[AttemptStarted]


class AttemptSettled(NamedTuple):
    """An attempt's outcome is committed."""

    trail: Trail
    outcome: Outcome
    put: tuple[float, float] | None
    """Start and end of reading the spool and writing to the store; None if the attempt didn't begin."""

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
        """Seconds from start to end of `put`; 0.0 if `put` is None."""
        return 0.0 if self.put is None else self.put[1] - self.put[0]


@frozen(kw_only=True)
class AttemptsSettled(Event):
    """Outcomes of attempts are committed. One settlement may emit several of these events."""

    attempts: Sequence[AttemptSettled]


@frozen(kw_only=True)
class UploadRescued(Event):
    """A rescue has made an upload due again or dead: its lease had expired, or it had no attempts left."""

    trail: Trail
    verdict: Verdict
    """RETRY or DEAD."""

    code: str | None
    was_leased: bool
    """True if the lease of an attempt had expired; False if the upload was waiting, with no attempts left."""

    rescued_at: float


@frozen
class UploadDied(Event):
    """An upload has become dead."""

    upload_id: UUID
    died_at: float
    code: str | None
    message: str | None


@frozen(kw_only=True)
class LeaseLost(Event):
    """This reactor's claim of an upload is no longer valid, so the outcome of its attempt is dropped.

    Another reactor took the upload over, or the upload was cancelled or deleted.
    """

    upload_id: UUID


@frozen(kw_only=True)
class RunExpired(Event):
    """A stale run was failed."""

    run_id: UUID
    code: str
    late_s: float
    """Seconds from the run's deadline until the run was failed."""

    context: TraceContext
    failed_at: float
    user_id: UUID | None


@frozen(kw_only=True)
class Rescued(Event):
    """Numbers of uploads that one statement rescued: their lease had expired, or they had no attempts left."""

    retried: int
    """Number of uploads that are due again."""

    buried: int
    """Number of uploads that are dead."""


@frozen(kw_only=True)
class Swept(Event):
    """A sweep has listed one reaction's due rows and scheduled them."""

    reaction: str
    found: int
    missed: int
    """Number of overdue rows that a notification should have scheduled."""

    duration_s: float


MOST_LINKS = 128
"""Maximum number of links of a span, the default limit in OpenTelemetry's specification."""


@frozen(kw_only=True)
class Reconciled(Event):
    """A whole reconciliation pass has ended."""

    pass_id: UUID
    began_at: float
    ended_at: float
    changed: int
    """Number of rescued rows. In `Reactor.drain`, rows changed by attempts and expiries are counted too."""

    links: Sequence[TraceContext]
    """The trace contexts of changed rows: of all, or of at least MOST_LINKS."""


@frozen(kw_only=True)
class UsageRepaired(Event):
    """Reconciliation corrected rows of storage_usage."""

    kind: str
    """'reservations' (released, because unused for a day) or 'months' (of users whose billing month was over)."""

    count: int


@frozen(kw_only=True)
class BreakerMoved(Event):
    """The circuit breaker of a store, bucket or spool has opened or closed."""

    place: Place
    opened: OpenBreaker | None = None
    """Why the breaker has opened; None if it has closed."""

    @property
    def is_open(self) -> bool:
        return self.opened is not None


@frozen(kw_only=True)
class DatabaseLost(Event):
    """A call to the database failed and will be repeated."""

    doing: str
    reason: str


@frozen(kw_only=True)
class DatabaseAnswers(Event):
    """No call to the database fails any more."""

    after_s: float
    """Seconds since the first of the failures."""


@frozen(kw_only=True)
class RowsRefused(Event):
    """The database refused rows: a constraint or trigger of the app. They are set aside, and tried again later."""

    reaction: str
    row_ids: Sequence[UUID]
    reason: str
    """The database's message."""

    times: int
    """How often the first of these rows was refused."""

    retry_in_s: float
    set_aside: int
    """Number of rows of this reaction that are set aside now."""


@frozen(kw_only=True)
class RowsAccepted(Event):
    """Rows that were set aside are not refused any more."""

    reaction: str
    rows: int
    set_aside: int
    """Number of rows of this reaction that are set aside now."""


@frozen(kw_only=True)
class ReactorsChanged(Event):
    """Reactors have started or gone. Uploads that a gone reactor had claimed may need a rescue."""

    alive: int
    joined: int
    left: int


@frozen(kw_only=True)
class TimerFired(Event):
    """A timer of the wheel fired, `lag_s` seconds late."""

    lag_s: float


EVENT_TYPES = [kind for kind in globals().copy().values() if isinstance(kind, type) and issubclass(kind, Event)]

Emit = Callable[[Event], None]
