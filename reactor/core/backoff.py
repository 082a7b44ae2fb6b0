"""The delay before the next attempt of a failed upload: exponential backoff with jitter, or the store's Retry-After.

Jitter is applied after the cap. In a long outage all uploads reach the cap; with jitter before the cap, half of
them would wait exactly `max_s` and return together. So the longest delay is `max_s * (1 + jitter)`.
"""

import math
from typing import Final

from attrs import Attribute, field, frozen

RETRY_AFTER_MAX_S: Final = 3_600.0
"""The longest Retry-After that is honoured, by the backoff of an upload and by the circuit breaker of its store.

Stores ask for seconds or minutes, and for an hour at most where a quota is hourly. A longer value is a mistake (a
wrong clock, a maintenance page's date): it must neither hold an upload back nor leave a store unprobed for a day.
"""


def honoured_retry_after_s(retry_after_s: float | None) -> float:
    """Return the seconds of a store's Retry-After that count, up to RETRY_AFTER_MAX_S; 0 for None, NaN or below 0."""
    if retry_after_s is None or not retry_after_s > 0:
        return 0.0
    return min(retry_after_s, RETRY_AFTER_MAX_S)


def _check(holds: bool, name: str, rule: str, value: float) -> None:
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name} must be {rule}, not {value}")


@frozen
class Backoff:
    """Seconds to wait after each failed attempt.

    Source: exponential backoff with a cap, as in M. Brooker, "Exponential Backoff and Jitter", AWS
    Architecture Blog, 2015; but with proportional jitter, so that operators can predict a retry within a few
    per cent.
    """

    base_s: float = field()
    """The first delay, more than 0."""

    factor: float = field()
    """The ratio of each delay to the one before, at least 1."""

    max_s: float = field()
    """The cap of a delay before jitter, at least `base_s`."""

    jitter: float = field()
    """The fraction by which a delay may be shorter or longer, 0 <= jitter < 1."""

    @base_s.validator
    def _validate_base_s(self, _: "Attribute[float]", value: float) -> None:
        _check(value > 0, "base_s", "more than 0", value)

    @factor.validator
    def _validate_factor(self, _: "Attribute[float]", value: float) -> None:
        _check(value >= 1, "factor", "at least 1", value)

    @max_s.validator
    def _validate_max_s(self, _: "Attribute[float]", value: float) -> None:
        _check(value >= self.base_s, "max_s", "at least base_s", value)

    @jitter.validator
    def _validate_jitter(self, _: "Attribute[float]", value: float) -> None:
        _check(0 <= value < 1, "jitter", "at least 0 and below 1", value)

    def delay_s(self, retry: int, u: float, retry_after_s: float | None = None) -> float:
        """Return the seconds to wait after the failure of retry number `retry`, counted from 1.

            min(max_s, base_s * factor ** (retry - 1)) * (1 + jitter * (2 * u - 1)),  0 <= u < 1

        A longer `retry_after_s`, the store's Retry-After, wins, up to RETRY_AFTER_MAX_S. Raises ValueError when
        `retry` or `u` is out of range.
        """
        if retry < 1:
            raise ValueError(f"retry must be at least 1, not {retry}")
        if not 0 <= u < 1:
            raise ValueError(f"u must be at least 0 and below 1, not {u}")
        try:
            uncapped_s = self.base_s * self.factor ** (retry - 1)
        except OverflowError:  # far above the cap
            uncapped_s = self.max_s
        delay_s = min(uncapped_s, self.max_s) * (1 + self.jitter * (2 * u - 1))
        return max(delay_s, honoured_retry_after_s(retry_after_s))
