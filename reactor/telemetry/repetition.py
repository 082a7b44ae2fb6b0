"""Decides which of many equal warnings are logged: the first, then one at growing intervals, with a count.

A fault has a key, such as the call that fails and the reason. Faults with different keys don't suppress each other. A
fault that ends and soon begins again (flapping) counts as repeated, so its beginnings and ends aren't all logged.
"""

import re
import time
from collections.abc import Callable, Hashable
from typing import Final

from attrs import define

_INTERVALS_S: Final = (1.0, 10.0, 60.0, 600.0)
"""Seconds between a line and the next one about the same fault. The last interval repeats."""

_LATEST_AFTER_END_S: Final = 10.0
"""A fault that begins again after its end is logged again after this time at the latest."""

_NEW_AFTER_S: Final = 120.0
"""A fault without a repetition for this long is a new one when it comes back."""

_MOST_FAULTS: Final = 200
"""Beyond this number, the fault that was repeated longest ago is forgotten."""

_NUMBER = re.compile(r"\b[0-9a-f-]*\d[0-9a-f-]*\b")


def kind_of(reason: str) -> str:
    """Return a reason without its numbers and ids: another port or process id doesn't make another fault."""
    return _NUMBER.sub("0", reason)


@define
class _Fault:
    began_at: float | None
    """Monotonic time of the first repetition since the last end; None after an end."""

    last_at: float
    next_line_at: float
    lines: int = 0
    left_out: int = 0
    is_logged: bool = False
    """Whether a line was logged since `began_at`."""


class Repetition:
    """The faults that were logged, and when to log each again. `now` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # Invariant: at most _MOST_FAULTS, in the order of their last repetitions
        self._faults: dict[Hashable, _Fault] = {}

    def left_out(self, key: Hashable) -> int | None:
        """Record that the fault occurred. Return how often it occurred since its last line, if it is to be logged now.

        Return None if it is left out.
        """
        now = self._now()
        fault = self._faults.pop(key, None)
        if fault is None or now - fault.last_at > _NEW_AFTER_S:
            fault = _Fault(began_at=now, last_at=now, next_line_at=now)
        if fault.began_at is None:
            fault.began_at, fault.is_logged = now, False
        fault.last_at = now
        self._faults[key] = fault
        if len(self._faults) > _MOST_FAULTS:
            del self._faults[next(iter(self._faults))]
        if now < fault.next_line_at:
            fault.left_out += 1
            return None
        fault.next_line_at = now + _INTERVALS_S[min(fault.lines, len(_INTERVALS_S) - 1)]
        fault.lines += 1
        fault.is_logged = True
        left_out, fault.left_out = fault.left_out, 0
        return left_out

    def more(self, key: Hashable) -> str | None:
        """Record that the fault occurred. Return what to append to its line; None if the line is left out."""
        left_out = self.left_out(key)
        if left_out is None:
            return None
        return f" ({left_out} more since the last line about this)" if left_out else ""

    def ended_after_s(self, is_over: Callable[[Hashable], bool] = lambda _key: True) -> float | None:
        """Record that the faults whose keys fulfil `is_over` have ended. Return for how long the longest lasted.

        Return None if no line about them was logged, so that their end isn't logged either.
        """
        now, longest_s = self._now(), None
        for key, fault in self._faults.items():
            if fault.began_at is None or not is_over(key):
                continue
            if fault.is_logged:
                longest_s = max(longest_s or 0.0, now - fault.began_at)
            fault.began_at = None
            fault.next_line_at = min(fault.next_line_at, now + _LATEST_AFTER_END_S)
            fault.lines = 1  # the second interval, because the first would let a flapping fault log twice a second
        return longest_s
