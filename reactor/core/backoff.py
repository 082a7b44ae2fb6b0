"""How long a failed upload waits: exponential backoff with jitter, which listens to the store.

The jitter comes after the cap and not before it. When a store is down for long, all its uploads end up at the
cap; capped last, half of them would wait exactly `max_s` and come back in one wave. So the longest wait is
`max_s * (1 + jitter)`.
"""

import math
from typing import Final

from attrs import Attribute, field, frozen

DAY_S: Final = 86_400.0
"""A store's Retry-After counts up to here: a date far ahead is a mistake, and must not bury the upload."""


def _check(holds: bool, name: str, rule: str, value: float) -> None:
    if not (holds and math.isfinite(value)):
        raise ValueError(f"{name} must be {rule}, not {value}")


@frozen
class Backoff:
    """Seconds to wait after each failed attempt.

    Source: exponential backoff with a cap, as in M. Brooker, "Exponential Backoff and Jitter", AWS
    Architecture Blog, 2015; but with proportional jitter, so that operators can foresee a retry within a few
    per cent.
    """

    base_s: float = field()
    """The first wait, more than 0."""

    factor: float = field()
    """How much longer each wait is than the one before, at least 1."""

    max_s: float = field()
    """Where the growth stops, at least `base_s`."""

    jitter: float = field()
    """The part of a wait by which it may be shorter or longer, 0 <= jitter < 1."""

    @base_s.validator
    def _base_is_positive(self, _: "Attribute[float]", value: float) -> None:
        _check(value > 0, "base_s", "more than 0", value)

    @factor.validator
    def _factor_never_shrinks(self, _: "Attribute[float]", value: float) -> None:
        _check(value >= 1, "factor", "at least 1", value)

    @max_s.validator
    def _max_is_not_below_base(self, _: "Attribute[float]", value: float) -> None:
        _check(value >= self.base_s, "max_s", "at least base_s", value)

    @jitter.validator
    def _jitter_leaves_something(self, _: "Attribute[float]", value: float) -> None:
        _check(0 <= value < 1, "jitter", "at least 0 and below 1", value)

    def delay_s(self, retry: int, u: float, retry_after_s: float | None = None) -> float:
        """Return the seconds to wait after the failure of retry number `retry`, counted from 1.

            min(max_s, base_s * factor ** (retry - 1)) * (1 + jitter * (2 * u - 1)),  0 <= u < 1

        A longer `retry_after_s`, the store's own wish, wins; up to a day, and not at all if it isn't a
        number. Raises ValueError when `retry` or `u` is out of range.
        """
        if retry < 1:
            raise ValueError(f"retry must be at least 1, not {retry}")
        if not 0 <= u < 1:
            raise ValueError(f"u must be at least 0 and below 1, not {u}")
        try:
            grown_s = self.base_s * self.factor ** (retry - 1)
        except OverflowError:  # the cap is long since reached
            grown_s = self.max_s
        delay_s = min(grown_s, self.max_s) * (1 + self.jitter * (2 * u - 1))
        if retry_after_s is None or math.isnan(retry_after_s):
            return delay_s
        return max(delay_s, min(retry_after_s, DAY_S))
