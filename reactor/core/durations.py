"""Parses and formats durations: `30s`, `0.5s`, `5m`, `1h30m`, `250ms`, `2d`, or plain seconds."""

import math
import re
from typing import Final

_SECONDS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""Seconds per unit, longest first. A duration has each unit at most once, in this order."""

_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_PARTS: Final = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _SECONDS))
_PLAIN: Final = re.compile(_NUMBER)


def parse_duration_s(text: str) -> float:
    """Return the seconds in `text`, at least 0 and finite. Raises ValueError with a one-line message."""
    compact = text.strip()
    if _PLAIN.fullmatch(compact):
        seconds = float(compact)
    elif compact and (parts := _PARTS.fullmatch(compact)):
        numbers = map(float, parts.groups("0"))
        seconds = sum(number * unit_s for number, unit_s in zip(numbers, _SECONDS.values(), strict=True))
    else:
        raise ValueError(f"{text!r} is not a duration: write it like 30s, 0.5s, 5m, 1h30m, or plain seconds")
    if not math.isfinite(seconds):
        raise ValueError("the duration is too long to be meant")
    return seconds


def format_duration(seconds: float) -> str:
    """Return the text of a duration that is finite and at least 0, rounded to a millisecond. Raises ValueError."""
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"{seconds} is not a duration")
    remaining_ms = round(seconds * 1000)
    parts = []
    for unit, unit_s in _SECONDS.items():
        count, remaining_ms = divmod(remaining_ms, round(unit_s * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def duration_text(seconds: float | str | None) -> str:
    """Return a duration for people: in seconds below an hour, in minutes below a day, else in hours, rounded down."""
    total = max(0, int(float(seconds or 0)))
    unit = 1 if total < _HOUR_S else 60 if total < _DAY_S else _HOUR_S
    return format_duration(total - total % unit)
