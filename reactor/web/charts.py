"""Computes where lines and bars go in an SVG picture of WIDTH by HEIGHT units. Templates draw them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

WIDTH: Final = 300
HEIGHT: Final = 60
_MIN_BAR_HEIGHT: Final = 1.5


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, span_s: float, now: float, gap_s: float
) -> dict[str, Any]:
    """Draw series of (time, value) over the last `span_s`. Points further apart than `gap_s` are not joined.

    Return `lines`, by name the points of each segment as SVG writes them, and `maximum`, the value at the top.
    """
    maximum = max((value for points in series.values() for _, value in points), default=0.0)
    lines = {}
    for name, points in series.items():
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
        lines[name] = [" ".join(segment if len(segment) > 1 else segment * 2) for segment in segments]
    return {"lines": lines, "maximum": maximum}


def histogram(counts: Sequence[int]) -> list[dict[str, float]]:
    """Draw one bar per count, as an SVG rectangle's attributes and `count`. A count above 0 has a visible height."""
    maximum, width = max(counts, default=0), WIDTH / max(1, len(counts))
    bars = []
    for number, count in enumerate(counts):
        height = max(_MIN_BAR_HEIGHT, HEIGHT * count / maximum) if count else 0.0
        x, y = round(number * width, 2), round(HEIGHT - height, 2)
        bars.append({"x": x, "y": y, "width": round(width - 1, 2), "height": round(height, 2), "count": count})
    return bars
