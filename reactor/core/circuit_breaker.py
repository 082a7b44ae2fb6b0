"""A circuit breaker, so that an outage doesn't use up the retries of every upload.

The breaker records the members (users, or uploads of one user) whose attempts failed since the last success. With
`threshold` different members it opens. A shared refusal, such as expired credentials, opens it immediately. While the
breaker is open, failed attempts aren't counted as attempts of their uploads, and no upload starts, except one at a time
as a probe after each pause. The breaker records members, not failures, because one member that always fails must not
open it.

    state     event                               next       and
    closed    failure of a `threshold`-th member  open       attempt counted; pause = first pause
              shared refusal                      open       attempt not counted; pause = first pause
              any other failure                   closed     attempt counted
              success                             closed     failed members cleared
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

from collections.abc import Hashable
from uuid import UUID

from reactor.core.backoff import honoured_retry_after_s


class CircuitBreaker:
    """Decides how many uploads may start, from the results of earlier attempts.

    Failures of `threshold` different members (at least 1) open it. Pauses: 0 < first_pause_s <= max_pause_s.
    """

    def __init__(self, threshold: int = 5, first_pause_s: float = 1.0, max_pause_s: float = 10.0) -> None:
        self._threshold = threshold
        self._first_pause_s = first_pause_s
        self._max_pause_s = max_pause_s

        self.is_open = False
        """Whether the breaker is open or probing, so the store is treated as down. Read only."""

        # Invariant: while closed, has the members that failed since the last success, fewer than `threshold`. Empty
        # while open.
        self._failed: set[Hashable] = set()

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

    def may_start(self, now: float, row_id: UUID) -> bool:
        """Return whether the attempt of `row_id` may start now: as the probe, if the breaker is open."""
        return self.allowance(now) != 0 or row_id == self._probe

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
        self.is_open = False

    def failed(
        self,
        now: float,
        row_id: UUID,
        *,
        member: Hashable | None = None,
        is_shared: bool = False,
        retry_after_s: float | None = None,
    ) -> bool:
        """Record a failure. Return True if the attempt must not be counted: the breaker was open, or is_shared is set.

        `member` is the user of the upload; None: the upload itself. `is_shared` opens the breaker immediately.
        `retry_after_s` is the store's Retry-After.
        """
        wait_s = honoured_retry_after_s(retry_after_s)
        if self._paused_until is None:
            self._failed.add(row_id if member is None else member)
            if is_shared or len(self._failed) == self._threshold:
                self._failed.clear()
                self.is_open = True
                self._paused_until = now + max(self._pause_s, wait_s)
            return is_shared
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
