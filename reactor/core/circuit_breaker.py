"""A circuit breaker for one store, so that an outage doesn't use up the retries of every upload.

The breaker records the rows that failed because of the store (no connection, timeout, 503) since the last success. When
`threshold` different rows have failed, it opens. While it is open, failed attempts aren't counted as attempts of their
uploads, and only one upload at a time starts, as a probe, after each pause. The breaker records rows, not failures,
because one upload that always fails must not open it.

    state     event                               next       and
    closed    failure of a `threshold`-th row     open       attempt counted; pause = first pause
              any other failure                   closed     attempt counted
              success                             closed     failed rows cleared
    open      an upload starts after the pause    probing    that upload is the probe
              late failure                        open       attempt not counted
              late success                        closed
    probing   the probe fails                     open       attempt not counted; pause doubled, up to the maximum
              the probe is abandoned              open       the next probe may start immediately
              late failure                        probing    attempt not counted
              any success                         closed

A result is late if its attempt was claimed before the breaker opened. A store's Retry-After makes a pause longer, up to
RETRY_AFTER_MAX_S (reactor/core/backoff.py). `now` is monotonic seconds, from the same clock in every call.
"""

from uuid import UUID

from reactor.core.backoff import honoured_retry_after_s


class CircuitBreaker:
    """Decides how many uploads may start, from the results of earlier attempts.

    Failures of `threshold` different rows (at least 1) open it. Pauses: 0 < first_pause_s <= max_pause_s.
    """

    def __init__(self, threshold: int = 5, first_pause_s: float = 1.0, max_pause_s: float = 10.0) -> None:
        self._threshold = threshold
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s

        self.is_open = False
        """Whether the breaker is open or probing, so the store is treated as down. Read only."""

        # Invariant: is_clear exactly when closed and no row is in _failed.
        self.is_clear = True
        """Whether the breaker is closed and has no failed rows. Then only `failed` can change its state. Read only."""

        # Invariant: while the breaker is closed, these are the rows that failed since the last success, fewer than
        # `threshold`. While it is open, the set is empty.
        self._failed: set[UUID] = set()

        # Invariant: None exactly while closed. While open, no probe starts before this time.
        self._paused_until: float | None = None
        self._pause_s = first_pause_s

        # Invariant: there is at most one probe, and none while closed.
        self._probe: UUID | None = None

    @property
    def retry_at(self) -> float | None:
        """The time from which a probe may start; None while the breaker is closed or a probe is in flight."""
        return None if self._probe is not None else self._paused_until

    def allowance(self, now: float) -> int | None:
        """Return how many uploads may start now. None: any number. 0: none. 1: one, as the probe."""
        if self._paused_until is None:
            return None
        return int(self._probe is None and now >= self._paused_until)

    def started(self, now: float, row_id: UUID) -> None:
        """Record that the attempt of `row_id` starts. It becomes the probe if `allowance` is 1.

        An attempt that was claimed before the breaker opened may start while `allowance` is 0. It is not a probe.
        """
        if self.allowance(now) == 1:
            self._probe = row_id

    def succeeded(self, now: float) -> None:  # noqa: ARG002 - unused, but `failed` has it too
        """Record that the store stored an object, or refused one permanently. Closes the breaker."""
        self._failed.clear()
        self._paused_until = None
        self._pause_s = self._first_pause_s
        self._probe = None
        self.is_open, self.is_clear = False, True

    def failed(self, now: float, row_id: UUID, retry_after_s: float | None = None) -> bool:
        """Record a failure because of the store. Return True if the attempt must not be counted: the breaker was open.

        `retry_after_s` is the store's Retry-After.
        """
        wait_s = honoured_retry_after_s(retry_after_s)
        if self._paused_until is None:
            self.is_clear = False
            self._failed.add(row_id)
            if len(self._failed) == self._threshold:
                self._failed.clear()
                self.is_open = True
                self._paused_until = now + max(self._pause_s, wait_s)
            return False
        if row_id == self._probe:
            self._probe = None
            self._pause_s = min(2 * self._pause_s, self._max_pause_s)
            wait_s = max(self._pause_s, wait_s)
        # the latest time wins: a late failure with a shorter Retry-After must not shorten the pause
        self._paused_until = max(self._paused_until, now + wait_s)
        return True

    def abandoned(self, now: float, row_id: UUID) -> None:  # noqa: ARG002 - unused, but `failed` has it too
        """Record that the attempt of `row_id` ended without a result from the store.

        If it was the probe, the next probe may start immediately.
        """
        if row_id == self._probe:
            self._probe = None
