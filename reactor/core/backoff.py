"""The delay before the next attempt of a failed upload: exponential backoff with jitter, or the store's Retry-After.

Jitter is applied after the cap. In a long outage all uploads reach the cap; with jitter before the cap, half of
them would wait exactly `max_s` and return together. So the longest delay is `max_s * (1 + jitter)`.
"""

from typing import Final

from attrs import frozen

RETRY_AFTER_MAX_S: Final = 3_600.0
"""The longest Retry-After that counts, for the backoff of an upload and for the circuit breaker of its store.

Stores ask for an hour at most, where a quota is hourly. A longer value is a mistake, such as a wrong clock.
"""


def honoured_retry_after_s(retry_after_s: float | None) -> float:
    """Return the seconds of a store's Retry-After that count, up to RETRY_AFTER_MAX_S; 0 for None, NaN or below 0."""
    if retry_after_s is None or not retry_after_s > 0:
        return 0.0
    return min(retry_after_s, RETRY_AFTER_MAX_S)


@frozen
class Backoff:
    """Seconds to wait after each failed attempt. The rules on the fields are those of the settings.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015; but with proportional jitter, so
    that operators can predict a retry within a few per cent.
    """

    base_s: float
    """The first delay, more than 0."""

    factor: float
    """The ratio of each delay to the one before, at least 1."""

    max_s: float
    """The cap of a delay before jitter, at least `base_s`."""

    jitter: float
    """The fraction by which a delay may be shorter or longer, 0 <= jitter < 1."""

    def delay_s(self, retry: int, u: float, retry_after_s: float | None = None) -> float:
        """Return the seconds to wait after the failure of retry number `retry`, counted from 1.

            min(max_s, base_s * factor ** (retry - 1)) * (1 + jitter * (2 * u - 1)),  0 <= u < 1

        A longer `retry_after_s`, the store's Retry-After, wins, up to RETRY_AFTER_MAX_S.
        """
        try:
            uncapped_s = self.base_s * self.factor ** (retry - 1)
        except OverflowError:  # far above the cap
            uncapped_s = self.max_s
        delay_s = min(uncapped_s, self.max_s) * (1 + self.jitter * (2 * u - 1))
        return max(delay_s, honoured_retry_after_s(retry_after_s))
