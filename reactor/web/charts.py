"""Computes where lines and bars go in an SVG picture of WIDTH by HEIGHT units. Templates draw them."""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

WIDTH: Final = 300
HEIGHT: Final = 60
_MIN_BAR_HEIGHT: Final = 1.5


@frozen(kw_only=True)
class Series:
    """One line over time, with gaps where no values were read."""

    name: str
    segments: list[str]
    """The points of each unbroken segment, in SVG's notation."""


@frozen(kw_only=True)
class Chart:
    """Lines on a common scale."""

    series: list[Series]
    maximum: float
    """The value at the top of the picture."""


def line_chart(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, span_s: float, now: float, gap_s: float
) -> Chart:
    """Draw series of (time, value) over the last `span_s`. Points further apart than `gap_s` are not joined."""
    maximum = max((value for _, points in series for _, value in points), default=0.0)
    drawn = []
    for name, points in series:
        segments: list[list[str]] = []
        previous_at = float("-inf")
        for at, value in points:
            if at < now - span_s:
                continue
            if at - previous_at > gap_s:
                segments.append([])
            previous_at = at
            x = WIDTH * (1 - (now - at) / span_s)
            y = HEIGHT * (1 - value / maximum) if maximum else float(HEIGHT)
            segments[-1].append(f"{x:.1f},{y:.1f}")
        # a single point is doubled: SVG draws no line through one point
        drawn.append(Series(name=name, segments=[" ".join(s if len(s) > 1 else s * 2) for s in segments]))
    return Chart(series=drawn, maximum=maximum)


@frozen(kw_only=True)
class Bar:
    """One bar of a histogram."""

    x: float
    y: float
    width: float
    height: float
    count: int


def histogram(counts: Sequence[int]) -> list[Bar]:
    """Draw one bar per count. A count above 0 has a visible height."""
    maximum, width = max(counts, default=0), WIDTH / max(1, len(counts))
    heights = [max(_MIN_BAR_HEIGHT, HEIGHT * count / maximum) if count else 0.0 for count in counts]
    return [
        Bar(x=round(number * width, 2), y=round(HEIGHT - height, 2), width=round(width - 1, 2), height=round(height, 2),
            count=count)
        for number, (count, height) in enumerate(zip(counts, heights, strict=True))
    ]  # fmt: skip
