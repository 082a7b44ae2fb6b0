"""A circuit breaker for one store: an outage isn't a failure of an upload.

When a store is down for everyone, every upload would spend its retries on it and die. So failures that speak
of the store (refused, timed out, 503) are counted by the row they hit, and when enough different rows have
failed with no success in between, it's the store: nothing more starts, what still fails is given back
unspent, and one upload at a time asks whether the store is back.

    state     what happens                        then       and
    closed    failure of a `threshold`-th row     open       counted; pause = first pause
              any other failure                   closed     counted
              success                             closed     all rows forgotten
    open      a start, once the pause is over     probing    that row is the probe
              failure (late: begun before)        open       unspent
              success (late)                      closed
    probing   the probe fails                     open       unspent; pause doubled, up to the longest
              the probe is abandoned              open       the next probe may go at once
              failure of another row (late)       probing    unspent
              any success                         closed

Why different rows: one upload that makes the store answer 500 whenever it comes must not stop the others.
A store's Retry-After makes a pause longer, never shorter, and by no more than ten minutes.

The breaker owns no clock. `now` is monotonic seconds, the same clock for every call.
"""

from typing import Final
from uuid import UUID

RETRY_AFTER_MAX_S: Final = 600.0
"""How much of a store's Retry-After is honoured: a store that is back must not stay unasked for a day."""


class CircuitBreaker:
    """Says how many uploads may start, told how the earlier ones went.

    `threshold` is the number of different rows, at least 1, whose failure opens it; pauses are in seconds,
    0 < first_pause_s <= max_pause_s.
    """

    def __init__(self, threshold: int = 5, first_pause_s: float = 1.0, max_pause_s: float = 10.0) -> None:
        if threshold < 1:
            raise ValueError(f"threshold must be at least 1, not {threshold}")
        if not 0 < first_pause_s <= max_pause_s:
            raise ValueError(f"pauses must be 0 < first <= max, not {first_pause_s} and {max_pause_s}")
        self._threshold = threshold
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s

        # Invariant: closed, these are the rows that failed since the last success, fewer than the threshold.
        self._failed: set[UUID] = set()

        # Invariant: open or probing, and only then, there is a time until which nothing starts.
        self._paused_until: float | None = None
        self._pause_s = first_pause_s

        # Invariant: there is at most one probe, and none while closed.
        self._probe: UUID | None = None

    @property
    def is_open(self) -> bool:
        """Whether the store counts as down: open or probing."""
        return self._paused_until is not None

    @property
    def retry_at(self) -> float | None:
        """The time at which a probe may go; None when there is nothing to wait for but a result.

        That is: while closed, and while a probe is out.
        """
        return None if self._probe is not None else self._paused_until

    def allowance(self, now: float) -> int | None:
        """Return how many uploads may start: None any number, 0 none now, 1 a probe."""
        if self._paused_until is None:
            return None
        return int(self._probe is None and now >= self._paused_until)

    def started(self, now: float, row_id: UUID) -> None:
        """Say that the attempt of `row_id` begins. If a probe is what `allowance` allows, this is it.

        One that begins although nothing may, because it was claimed before the breaker opened, is a late one.
        """
        if self.allowance(now) == 1:
            self._probe = row_id

    def succeeded(self, now: float) -> None:  # noqa: ARG002 - every result is told the same way
        """Say that the store answered: it stored an object, or refused one for good. It is up."""
        self._failed.clear()
        self._paused_until = None
        self._pause_s = self._first_pause_s
        self._probe = None

    def failed(self, now: float, row_id: UUID, retry_after_s: float | None = None) -> bool:
        """Say that the attempt of `row_id` failed for a reason that lies with the store.

        Return whose failure it is: True when it's the outage's, so that the attempt is to be given back
        unspent; False when it's the upload's own, and counts. `retry_after_s` is the store's Retry-After.
        """
        if self._paused_until is None:
            self._failed.add(row_id)
            if len(self._failed) == self._threshold:
                self._failed.clear()
                self._pause_until(now + max(self._pause_s, _honoured_s(retry_after_s)))
            return False
        if row_id == self._probe:
            self._probe = None
            self._pause_s = min(2 * self._pause_s, self._max_pause_s)
            self._pause_until(now + max(self._pause_s, _honoured_s(retry_after_s)))
        else:
            self._pause_until(now + _honoured_s(retry_after_s))
        return True

    def abandoned(self, now: float, row_id: UUID) -> None:  # noqa: ARG002 - every result is told the same way
        """Say that the attempt of `row_id` ended and tells nothing of the store: shutdown, a lost lease."""
        if row_id == self._probe:
            self._probe = None

    def _pause_until(self, then: float) -> None:
        # The latest wish stands: a late failure that knows less must not cut a Retry-After short.
        self._paused_until = then if self._paused_until is None else max(self._paused_until, then)


def _honoured_s(retry_after_s: float | None) -> float:
    """Return the seconds of a store's Retry-After that are honoured; 0 for none, and for what isn't one."""
    if retry_after_s is None or not retry_after_s > 0:
        return 0.0
    return min(retry_after_s, RETRY_AFTER_MAX_S)
