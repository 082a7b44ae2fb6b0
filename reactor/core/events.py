"""What happened, as frozen values. Code emits them; spans, log lines and metrics are made from them elsewhere.

What happens to each upload is told of by the batch: a call for each, and for each who hears of it, was more than a
quarter of all calls. What a batch holds are named tuples, which are made in a third of the time.

Moments are seconds since 1970 by the database's clock: one clock for a whole trace, whoever took part in it. No event
carries a secret, a spool path or an object's contents, so that no listener has to know what to hide.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from attrs import frozen

from reactor.core.model import Outcome, Verdict
from reactor.core.trace_context import TraceContext, Trail


@frozen(kw_only=True)
class Listening:
    """The listening connection is live and was proven by a round trip."""


@frozen(kw_only=True)
class ListenerLost:
    """The listening connection ended, or what was sent didn't come back."""

    reason: str


@frozen(kw_only=True)
class Polling:
    """Notifications don't arrive, as `reason` says: the database is polled until they do."""

    interval_s: float
    reason: str


@frozen(kw_only=True)
class Notified:
    """A notification was heard."""

    channel: str
    rows: int
    """Rows that it named; 0 when it asks for a sweep."""


@frozen(kw_only=True)
class NotificationRejected:
    """A notification wasn't one of ours; nothing was done."""

    channel: str
    reason: str


@frozen(kw_only=True)
class UploadsClaimed:
    """Uploads were claimed: their waits are over."""

    trails: Sequence[Trail]


class AttemptStarted(NamedTuple):
    """An attempt to store an upload begins."""

    upload_id: UUID
    attempt: int
    lag_s: float
    """Seconds from when the row was due until a thread took it up, by the database's clock."""


@frozen(kw_only=True)
class AttemptsStarted:
    """Attempts have begun."""

    attempts: Sequence[AttemptStarted]


class AttemptSettled(NamedTuple):
    """An attempt's outcome is committed."""

    trail: Trail
    outcome: Outcome
    put: tuple[float, float] | None
    """From when until when the spool was read and the store written to; None if it wasn't begun."""

    settling_at: float
    """When the settlement was sent."""

    settled_at: float

    @property
    def upload_id(self) -> UUID:
        return self.trail.upload_id

    @property
    def attempt(self) -> int:
        return self.trail.attempt

    @property
    def verdict(self) -> Verdict:
        return self.outcome.verdict

    @property
    def delay_s(self) -> float:
        return self.outcome.delay_s

    @property
    def code(self) -> str | None:
        return self.outcome.code

    @property
    def message(self) -> str | None:
        return self.outcome.message

    @property
    def put_s(self) -> float:
        """Seconds that the put took; 0.0 if it did not begin."""
        return 0.0 if self.put is None else self.put[1] - self.put[0]


@frozen(kw_only=True)
class AttemptsSettled:
    """Attempts' outcomes are committed: those of a settlement, or some of them."""

    attempts: Sequence[AttemptSettled]


@frozen(kw_only=True)
class UploadRescued:
    """An upload that nobody worked on any more waits again, or was buried."""

    trail: Trail
    verdict: Verdict
    """RETRY or DEAD."""

    code: str | None
    was_leased: bool
    """True when an attempt had been claimed and never ended; False when only its tries were used up."""

    rescued_at: float


class UploadDied(NamedTuple):
    """An upload was given up."""

    upload_id: UUID
    died_at: float
    code: str | None
    message: str | None


@frozen(kw_only=True)
class LeaseLost:
    """An upload was taken over by another reactor while this one worked on it; its outcome is dropped."""

    upload_id: UUID


@frozen(kw_only=True)
class RunExpired:
    """A stale run was failed."""

    run_id: UUID
    code: str
    late_s: float
    """Seconds from its deadline until it was failed, by the database's clock."""

    context: TraceContext
    failed_at: float


@frozen(kw_only=True)
class Rescued:
    """Uploads that nobody worked on any more were brought back, or buried when their tries were used up."""

    retried: int
    buried: int


@frozen(kw_only=True)
class Swept:
    """One reaction's rows were read from the database and armed."""

    reaction: str
    found: int
    missed: int
    """Rows that were overdue and of which no notification had told."""

    duration_s: float


MOST_LINKS = 128
"""What tracing back ends keep of one span, by the specification's default limit."""


@frozen(kw_only=True)
class Reconciled:
    """A whole pass was made."""

    pass_id: UUID
    began_at: float
    ended_at: float
    changed: int
    """Rows that it changed."""

    links: Sequence[TraceContext]
    """Where they stand in their traces; of many, the first MOST_LINKS at least."""


@frozen(kw_only=True)
class UsageRepaired:
    """Reconciliation put something right in the books that no writer had."""

    kind: str
    """'reservations': bytes that were given back, for nobody came for them; 'months': users whose month was over."""

    count: int


@frozen(kw_only=True)
class BreakerMoved:
    """The store went down for everyone, or came back."""

    store: str
    is_open: bool


@frozen(kw_only=True)
class DatabaseLost:
    """A call to the database failed; what it was about is tried again."""

    doing: str
    reason: str


@frozen(kw_only=True)
class ReactorsChanged:
    """Reactors joined or left; who left may have left work behind."""

    alive: int
    joined: int
    left: int


@frozen(kw_only=True)
class TimerFired:
    """A timer of the wheel came due."""

    lag_s: float


Event = (
    Listening
    | ListenerLost
    | Polling
    | Notified
    | NotificationRejected
    | UploadsClaimed
    | AttemptsStarted
    | AttemptsSettled
    | UploadDied
    | LeaseLost
    | RunExpired
    | UploadRescued
    | Rescued
    | Swept
    | Reconciled
    | UsageRepaired
    | BreakerMoved
    | DatabaseLost
    | ReactorsChanged
    | TimerFired
)

Emit = Callable[[Event], None]
