"""Recent activity of this reactor, for its page: reaction times, dead uploads, missed rows, listener mode.

The event handlers run between a notification and the attempt, so each must end within one or two microseconds.
Statistics are therefore computed when the page reads them. Memory is bounded.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import define, evolve, field

from reactor.core import events
from reactor.core.process import Fault, Process
from reactor.runtime.clock import Clock

if TYPE_CHECKING:
    from reactor.core.breakers import OpenBreaker
    from reactor.core.refusal import Place

BUCKET_S = 30.0
BUCKETS = 30
"""Number of buckets kept; together they cover 15 minutes."""

_BUCKET_SAMPLES = 256
_LAG_BUCKETS = 4
_MAX_DEATHS = 20
_MAX_STARTED = 10_000
"""Maximum number of AttemptsStarted events that wait for `run`. If more arrive in 15 s, the oldest are dropped."""


@define
class Bucket:
    """The values of 30 s."""

    began_at: float
    count: int = 0
    samples: list[float] = field(factory=list)
    """A uniform sample of the values (Vitter's algorithm R)."""


class RecentValues:
    """Values of the last minutes, in buckets."""

    def __init__(self, clock: Clock, buckets: int = BUCKETS) -> None:
        self._clock = clock
        self._buckets: deque[Bucket] = deque(maxlen=buckets)
        self._max_age_s = buckets * BUCKET_S

    def add(self, value: float) -> None:
        now = self._clock.now()
        if not self._buckets or now - self._buckets[-1].began_at >= BUCKET_S:
            self._buckets.append(Bucket(now))
        bucket = self._buckets[-1]
        bucket.count += 1
        if len(bucket.samples) < _BUCKET_SAMPLES:
            bucket.samples.append(value)
        elif (index := random.randrange(bucket.count)) < _BUCKET_SAMPLES:  # noqa: S311 - sampling is not security
            bucket.samples[index] = value

    def buckets(self) -> list[Bucket]:
        """Return the buckets that began within the last `buckets` * BUCKET_S seconds, the oldest first."""
        oldest = self._clock.now() - self._max_age_s
        return [bucket for bucket in self._buckets if bucket.began_at >= oldest]

    def quantile(self, share: float) -> float | None:
        """Return the quantile, 0 <= share <= 1; None without values."""
        return quantile([value for bucket in self.buckets() for value in bucket.samples], share)


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the quantile of `values`, 0 <= share <= 1; None without values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


class RecentActivity:
    """Records events of the reactor. `subscriptions` lists the event types."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.changed = asyncio.Event()
        """Set when open pages must be updated immediately. The live view waits for this event and clears it."""
        self._reactions = RecentValues(clock)
        self._started: deque[events.AttemptsStarted] = deque(maxlen=_MAX_STARTED)
        """Events that are not in `_reactions` yet. The handler is deque.append, because it delays uploads least."""
        self._lags = RecentValues(clock, _LAG_BUCKETS)
        self._mode = "starting"
        self._mode_since = clock.now()
        self._database_answers = True
        self._breakers_open: dict[Place, tuple[OpenBreaker, float]] = {}
        """Maps each place with an open breaker to the reason, and to the monotonic time at which it opened."""
        self._refused: dict[str, events.RowsRefused] = {}
        """The last refusal by the database, by reaction, while rows are set aside."""
        self.deaths: deque[events.UploadDied] = deque(maxlen=_MAX_DEATHS)
        self.missed: Counter[str] = Counter()
        """Number of overdue rows that were found without a notification since the start, by kind."""
        self._missed_in_pass: Counter[str] = Counter()
        self.missed_in_last_pass: dict[str, int] = {}
        """The part of `missed` that was counted between the ends of the last two reconciliations."""
        self.reconciled_at: float | None = None
        """When the last reconciliation ended, in monotonic seconds; None before the first."""

    def subscriptions(self) -> Mapping[type[events.Event], Callable[[Any], None]]:
        """Return the handler for each event type."""
        return {
            events.AttemptsStarted: self._started.append,
            events.TimerFired: lambda event: self._lags.add(event.lag_s),
            events.Listening: lambda _: self._set_mode("listening"),
            events.ListenerLost: lambda _: self._set_mode("starting"),
            events.Polling: lambda _: self._set_mode("polling"),
            events.DatabaseLost: lambda _: self._set_database(answers=False),
            events.DatabaseAnswers: lambda _: self._set_database(answers=True),
            events.BreakerMoved: self._on_breaker,
            events.UploadDied: self._on_died,
            events.RowsRefused: self._on_refused,
            events.RowsAccepted: self._on_accepted,
            events.Swept: lambda event: self._count_missed(event.reaction, event.missed),
            events.UsageRepaired: self._on_repaired,
            events.Reconciled: self._on_reconciled,
        }

    async def run(self) -> None:
        """Add the reaction times to the buckets, every 15 s. Never returns."""
        while True:
            await self._clock.sleep(BUCKET_S / 2)
            self._collect_started()

    @property
    def reactions(self) -> RecentValues:
        """Seconds from an upload's due time until its attempt starts."""
        self._collect_started()
        return self._reactions

    def _collect_started(self) -> None:
        while self._started:
            for attempt in self._started.popleft().attempts:
                self._reactions.add(attempt.lag_s)

    def process(
        self,
        *,
        instance: str,
        fault: Fault | None,
        mode_reason: str,
        not_ready: Sequence[str],
        spool_free_bytes: int | None,
        spans_lost: tuple[int, float] = (0, 0.0),
    ) -> Process:
        """Return this reactor's state. `spans_lost` is a number, and the seconds since the last loss."""
        now = self._clock.now()
        return Process(
            instance=instance,
            mode=self._mode,
            mode_for_s=now - self._mode_since,
            mode_reason=mode_reason,
            fault=fault,
            not_ready=not_ready,
            open_breakers=[(opened, now - since) for opened, since in self._breakers_open.values()],
            refused={name: (event.set_aside, event.reason) for name, event in self._refused.items()},
            lag_s=self._lags.quantile(0.95) or 0.0,
            spool_free_bytes=spool_free_bytes,
            spans_lost=spans_lost[0],
            spans_lost_ago_s=spans_lost[1],
        )

    def _set_mode(self, mode: str) -> None:
        if mode != self._mode:
            self._mode, self._mode_since = mode, self._clock.now()
            self.changed.set()

    def _set_database(self, *, answers: bool) -> None:
        if answers is not self._database_answers:
            self._database_answers = answers
            self.changed.set()

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        if event.opened is None:
            self._breakers_open.pop(event.place, None)
        else:
            _, since = self._breakers_open.get(event.place, (None, self._clock.now()))
            self._breakers_open[event.place] = event.opened, since
        self.changed.set()

    def _on_refused(self, event: events.RowsRefused) -> None:
        self._refused[event.reaction] = event
        self.changed.set()

    def _on_accepted(self, event: events.RowsAccepted) -> None:
        if not event.set_aside:
            self._refused.pop(event.reaction, None)
        elif event.reaction in self._refused:
            self._refused[event.reaction] = evolve(self._refused[event.reaction], set_aside=event.set_aside)
        self.changed.set()

    def _on_died(self, event: events.UploadDied) -> None:
        self.deaths.append(event)
        self.changed.set()

    def _count_missed(self, kind: str, count: int) -> None:
        self.missed[kind] += count
        self._missed_in_pass[kind] += count

    def _on_repaired(self, event: events.UsageRepaired) -> None:
        if event.kind == "reservations":
            self._count_missed(event.kind, event.count)

    def _on_reconciled(self, _: events.Reconciled) -> None:
        self.reconciled_at = self._clock.now()
        self.missed_in_last_pass = dict(+self._missed_in_pass)
        self._missed_in_pass.clear()
