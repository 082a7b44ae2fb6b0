"""Calculates the delay before the next attempt of a failed upload: exponential backoff with jitter, or Retry-After.

Jitter is applied after the cap, so the longest delay is `max_s * (1 + jitter)`. In a long outage the delays of all
uploads reach the cap. With jitter before the cap, half of these uploads or more would wait exactly `max_s` and be due
together.
"""

from typing import Final

from attrs import frozen

RETRY_AFTER_MAX_S: Final = 3_600.0
"""The cap of Retry-After, in the backoff of an upload and in the circuit breaker of its store.

A store with an hourly quota may ask for an hour. A longer value is a mistake, such as a wrong clock.
"""


def honoured_retry_after_s(retry_after_s: float | None) -> float:
    """Return a store's Retry-After in seconds, at most RETRY_AFTER_MAX_S; 0 for None, NaN and values below 0."""
    if retry_after_s is None or not retry_after_s > 0:
        return 0.0
    return min(retry_after_s, RETRY_AFTER_MAX_S)


@frozen
class Backoff:
    """Calculates the seconds to wait after each failed attempt. `Settings` has checked its fields retry_*.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015. Here the jitter is proportional
    to the delay, so operators can predict a retry within a few per cent.
    """

    base_s: float
    """The delay after the first failed attempt, more than 0."""

    factor: float
    """The ratio of each delay to the previous delay, at least 1."""

    max_s: float
    """The cap of a delay before jitter, at least `base_s`."""

    jitter: float
    """The fraction by which a delay may be shorter or longer, 0 <= jitter < 1."""

    def delay_s(self, retry: int, u: float, retry_after_s: float | None = None) -> float:
        """Return the seconds to wait after a failed attempt. `retry` is the number of the attempt: 1 is the first.

            min(max_s, base_s * factor ** (retry - 1)) * (1 + jitter * (2 * u - 1)),  0 <= u < 1

        If `retry_after_s`, the store's Retry-After, is longer, returns it instead, up to RETRY_AFTER_MAX_S.
        """
        try:
            uncapped_s = self.base_s * self.factor ** (retry - 1)
        except OverflowError:  # far above the cap
            uncapped_s = self.max_s
        delay_s = min(uncapped_s, self.max_s) * (1 + self.jitter * (2 * u - 1))
        return max(delay_s, honoured_retry_after_s(retry_after_s))
