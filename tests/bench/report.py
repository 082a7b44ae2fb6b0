"""The figures as a table and as JSON: medians, spreads, and ratios within repeats."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen


@frozen(kw_only=True)
class Goal:
    """A bound on a figure, and the measured value."""

    case: str
    words: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


@define
class Report:
    """Collects the figures of all repeats by case, metric and variant."""

    goals: list[Goal] = field(factory=list)
    notes: list[tuple[str, str]] = field(factory=list)
    _figures: dict[tuple[str, str, str], list[float]] = field(factory=dict)

    def add(self, case: str, variant: str, **metrics: float) -> None:
        """Add the figures of one repeat of a variant; a metric's name ends in its unit."""
        for metric, value in metrics.items():
            self._figures.setdefault((case, metric, variant), []).append(value)

    def note(self, case: str, words: str) -> None:
        """Add a line below the case's table, for example what was skipped and why."""
        self.notes.append((case, words))

    def has(self, case: str, metric: str, variant: str) -> bool:
        return (case, metric, variant) in self._figures

    def median(self, case: str, metric: str, variant: str) -> float:
        return statistics.median(self._figures[case, metric, variant])

    def ratio(self, case: str, metric: str, variant: str, to: str) -> float:
        """Return the median of the ratios of all repeats. The variants of one repeat run under similar load."""
        ours, theirs = self._figures[case, metric, variant], self._figures[case, metric, to]
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))

    def goal(
        self, case: str, words: str, value: float, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        self.goals.append(Goal(case=case, words=words, value=value, at_most=at_most, at_least=at_least))

    def table(self, case: str, base: str | None) -> str:
        """Return the case's figures, one per line: median, min, max, and the ratio to `base`."""
        lines = [f"{'variant':34}{'metric':24}{'median':>12}{'min':>12}{'max':>12}{'of base':>10}"]
        for (of, metric, variant), values in self._figures.items():
            if of != case:
                continue
            ratio = ""
            if base is not None and variant != base and self._repeats(case, metric, base) == len(values):
                ratio = f"{self.ratio(case, metric, variant, base):.2f}"
            median, low, high = (_short(v) for v in (statistics.median(values), min(values), max(values)))
            lines.append(f"{variant:34}{metric:24}{median:>12}{low:>12}{high:>12}{ratio:>10}")
        lines += [f"  {words}" for of, words in self.notes if of == case]
        lines += [f"  {_verdict(goal)}" for goal in self.goals if goal.case == case]
        return "\n".join(lines)

    def _repeats(self, case: str, metric: str, variant: str) -> int:
        values = self._figures.get((case, metric, variant), [])
        return len(values) if all(values) else 0  # no ratio to zero

    def write(self, path: Path, about: dict[str, Any]) -> None:
        """Write figures, goals and notes as JSON."""
        figures = [
            {"case": case, "metric": metric, "variant": variant, "values": values, "median": statistics.median(values)}
            for (case, metric, variant), values in self._figures.items()
        ]
        goals = [
            {"case": g.case, "goal": g.words, "value": g.value, "at_most": g.at_most, "at_least": g.at_least,
             "holds": g.holds}
            for g in self.goals
        ]  # fmt: skip
        notes = [{"case": case, "note": words} for case, words in self.notes]
        path.write_text(json.dumps({**about, "figures": figures, "goals": goals, "notes": notes}, indent=1) + "\n")


def percentiles_ms(values_s: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of `values_s` in ms. No goal uses p99, because p99 depends on the disk."""
    cuts = statistics.quantiles([1000 * value for value in values_s], n=100)
    return {
        "p50_ms": cuts[49],
        "p95_ms": cuts[94],
        "p99_ms": cuts[98],
        "min_ms": 1000 * min(values_s),
        "max_ms": 1000 * max(values_s),
    }


def _verdict(goal: Goal) -> str:
    bound = f"<= {goal.at_most:g}" if goal.at_most is not None else f">= {goal.at_least:g}"
    return f"{'holds ' if goal.holds else 'MISSED'} {goal.words}: {goal.value:.3g} ({bound})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
