"""Pictures as numbers: where lines and bars go in an SVG of so many units. Templates draw them."""

from collections.abc import Sequence
from typing import Final

from attrs import frozen

WIDTH: Final = 300
HEIGHT: Final = 60


@frozen(kw_only=True)
class Line:
    """One line over time; a gap where nothing was known."""

    name: str
    pieces: list[str]
    """Points of each unbroken piece, as SVG writes them."""


@frozen(kw_only=True)
class Chart:
    """Lines on a common scale."""

    lines: list[Line]
    most: float
    """What the top of the picture stands for."""


def chart(
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]], *, span_s: float, now: float, gap_s: float
) -> Chart:
    """Draw lines of (moment, figure) over the last `span_s`; points further apart than `gap_s` aren't joined."""
    most = max((figure for _, points in lines for _, figure in points), default=0.0)
    drawn = []
    for name, points in lines:
        pieces: list[list[str]] = []
        last = float("-inf")
        for moment, figure in points:
            if moment < now - span_s:
                continue
            if moment - last > gap_s:
                pieces.append([])
            last = moment
            x = WIDTH * (1 - (now - moment) / span_s)
            y = HEIGHT * (1 - figure / most) if most else float(HEIGHT)
            pieces[-1].append(f"{x:.1f},{y:.1f}")
        # a lone point is a short dash, or nobody would see it
        drawn.append(Line(name=name, pieces=[" ".join(p if len(p) > 1 else p * 2) for p in pieces]))
    return Chart(lines=drawn, most=most)


@frozen(kw_only=True)
class Bar:
    """One bar of a histogram."""

    x: float
    y: float
    width: float
    height: float
    count: int


def bars(counts: Sequence[int]) -> list[Bar]:
    """Draw a histogram: what isn't nothing is at least a line high."""
    most, width = max(counts, default=0), WIDTH / max(1, len(counts))
    heights = [max(1.5, HEIGHT * count / most) if count else 0.0 for count in counts]
    return [
        Bar(x=round(number * width, 2), y=round(HEIGHT - height, 2), width=round(width - 1, 2), height=round(height, 2),
            count=count)
        for number, (count, height) in enumerate(zip(counts, heights, strict=True))
    ]  # fmt: skip
