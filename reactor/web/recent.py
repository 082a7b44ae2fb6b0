"""What this reactor remembers of its last minutes, for its page: how quickly it reacted, what it lost, what it found.

Hears every event as it happens, between a notification and its attempt: so each is taken in within a microsecond or
two, and figures are reckoned when somebody looks. Bounded, whatever happens.
"""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from attrs import define, field, frozen

from reactor.core import events
from reactor.core.events import Event
from reactor.core.health import Process
from reactor.core.model import Verdict
from reactor.runtime.clock import Clock

BIN_S = 30.0
BINS = 30
"""How much is remembered: a quarter of an hour."""

_IN_BIN = 256
"""How many figures of one bin are kept; evenly chosen where there were more."""

_LAG_BINS = 4
_DEATHS = 20


@define
class Bin:
    """Figures of half a minute."""

    began_at: float
    count: int = 0
    kept: list[float] = field(factory=list)

    def add(self, figure: float) -> None:
        self.count += 1
        if len(self.kept) < _IN_BIN:
            self.kept.append(figure)
        elif (place := random.randrange(self.count)) < _IN_BIN:  # noqa: S311  # a sample is no secret
            self.kept[place] = figure


class Recent:
    """Figures of the last minutes, in bins."""

    def __init__(self, clock: Clock, bins: int = BINS) -> None:
        self._clock = clock
        self._bins: deque[Bin] = deque(maxlen=bins)
        self._keeps_s = bins * BIN_S

    def add(self, figure: float) -> None:
        now = self._clock.now()
        if not self._bins or now - self._bins[-1].began_at >= BIN_S:
            self._bins.append(Bin(now))
        self._bins[-1].add(figure)

    def bins(self) -> list[Bin]:
        """Return the bins that are not too old, the oldest first."""
        since = self._clock.now() - self._keeps_s
        return [each for each in self._bins if each.began_at >= since]

    def quantile(self, share: float) -> float | None:
        """Return what `share` of the figures are at most; None where there are none."""
        return quantile([figure for each in self.bins() for figure in each.kept], share)


def quantile(figures: Sequence[float], share: float) -> float | None:
    """Return the least of `figures` that `share` of them are at most; None where there are none."""
    return sorted(figures)[min(len(figures) - 1, int(share * len(figures)))] if figures else None


@frozen(kw_only=True)
class Death:
    """An upload that was given up, as this reactor saw it."""

    id: UUID
    at: float
    """Database seconds since 1970."""

    code: str | None
    message: str | None


@frozen(kw_only=True)
class Reconciliation:
    """What the last whole pass found."""

    at: float
    """Monotonic."""

    missed: dict[str, int]
    """Rows that notifications missed, by kind."""


class Memory:
    """An `Emit` that remembers."""

    def __init__(self, clock: Clock, *, on_change: Callable[[], None]) -> None:
        """`on_change` is called when something has changed that a page shows first."""
        self._clock = clock
        self._on_change = on_change
        self.reactions = Recent(clock)
        """Seconds from due to an attempt's start."""
        self._lags = Recent(clock, _LAG_BINS)
        self._mode = "starting"
        self._mode_since = clock.now()
        self._open_since: dict[str, float] = {}
        self.deaths: deque[Death] = deque(maxlen=_DEATHS)
        self.missed: Counter[str] = Counter()
        """Rows that notifications missed since the start, by kind."""
        self._missed_now: Counter[str] = Counter()
        self.reconciled: Reconciliation | None = None
        self._hearing: dict[type[Any], Callable[[Any], None]] = {
            events.AttemptsStarted: self._on_started,
            events.TimerFired: lambda event: self._lags.add(event.lag_s),
            events.Listening: lambda _: self._turn("listening"),
            events.ListenerLost: lambda _: self._turn("starting"),
            events.Polling: lambda _: self._turn("polling"),
            events.BreakerMoved: self._on_breaker,
            events.AttemptsSettled: self._on_settled,
            events.UploadRescued: self._on_rescued,
            events.Swept: lambda event: self._miss(event.reaction, event.missed),
            events.UsageRepaired: self._on_repaired,
            events.Reconciled: self._on_reconciled,
        }

    def hear(self, event: Event) -> None:
        if (take := self._hearing.get(type(event))) is not None:
            take(event)

    def process(self, *, not_ready: Sequence[str], spool_free_bytes: int | None) -> Process:
        """Return what this reactor knows of itself."""
        now = self._clock.now()
        return Process(
            mode=self._mode,
            mode_for_s=now - self._mode_since,
            not_ready=not_ready,
            open_stores={store: now - since for store, since in self._open_since.items()},
            lag_s=self._lags.quantile(0.95) or 0.0,
            spool_free_bytes=spool_free_bytes,
        )

    def _turn(self, mode: str) -> None:
        if mode != self._mode:
            self._mode, self._mode_since = mode, self._clock.now()
            self._on_change()

    def _on_breaker(self, event: events.BreakerMoved) -> None:
        if event.is_open:
            self._open_since.setdefault(event.store, self._clock.now())
        else:
            self._open_since.pop(event.store, None)
        self._on_change()

    def _on_started(self, event: events.AttemptsStarted) -> None:
        for started in event.attempts:
            self.reactions.add(started.lag_s)

    def _on_settled(self, event: events.AttemptsSettled) -> None:
        for settled in event.attempts:
            if settled.verdict is Verdict.DEAD:
                death = Death(id=settled.upload_id, at=settled.settled_at, code=settled.code, message=settled.message)
                self._bury(death)

    def _on_rescued(self, event: events.UploadRescued) -> None:
        if event.verdict is Verdict.DEAD:
            message = "its tries are used up"
            self._bury(Death(id=event.trail.upload_id, at=event.rescued_at, code=event.code, message=message))

    def _bury(self, death: Death) -> None:
        self.deaths.append(death)
        self._on_change()

    def _miss(self, kind: str, count: int) -> None:
        self.missed[kind] += count
        self._missed_now[kind] += count

    def _on_repaired(self, event: events.UsageRepaired) -> None:
        if event.kind == "reservations":
            self._miss(event.kind, event.count)

    def _on_reconciled(self, _: events.Reconciled) -> None:
        self.reconciled = Reconciliation(at=self._clock.now(), missed=dict(+self._missed_now))
        self._missed_now.clear()
