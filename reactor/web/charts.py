"""Computes coordinates of lines and bars for SVG pictures of WIDTH by HEIGHT units. Templates draw the pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

WIDTH: Final = 300
HEIGHT: Final = 60
_MIN_BAR_HEIGHT: Final = 1.5


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, span_s: float, now: float, gap_s: float
) -> dict[str, Any]:
    """Compute a line chart of (time, value) points. Points that are more than `gap_s` seconds apart are not joined.

    The chart covers the last `span_s` seconds. Return `lines`, which maps each name to its segments (the `points`
    attributes of SVG polylines), and `maximum`, the value at the top.
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
    """Return one bar per count: attributes of an SVG rectangle, and `count`. Bars of counts above 0 are visible."""
    maximum, width = max(counts, default=0), WIDTH / max(1, len(counts))
    bars = []
    for number, count in enumerate(counts):
        height = max(_MIN_BAR_HEIGHT, HEIGHT * count / maximum) if count else 0.0
        x, y = round(number * width, 2), round(HEIGHT - height, 2)
        bars.append({"x": x, "y": y, "width": round(width - 1, 2), "height": round(height, 2), "count": count})
    return bars
