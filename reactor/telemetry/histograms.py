"""Histograms: counted by prometheus_client, exported at /metrics and over OTLP.

The SDK's own histogram takes 4.4 µs a value and 2.4 µs more for a second reader, prometheus_client's 0.9 µs (measured
side by side). An upload records three values.
"""

import time
from collections.abc import Iterable
from itertools import pairwise

from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, Metric
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from prometheus_client import Histogram
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histograms(Collector):
    """All histograms of one reactor, as a collector for prometheus_client's registry."""

    def __init__(self) -> None:
        self._histograms: list[tuple[str, str, Histogram]] = []
        self._started_ns = time.time_ns()

    def create(self, name: str, description: str) -> Histogram:
        """Return a new histogram of seconds. `name` is OpenTelemetry's; at /metrics it is spelt name_seconds."""
        prometheus_name = name.replace(".", "_") + "_seconds"
        histogram = Histogram(prometheus_name, description, registry=None, buckets=_BOUNDS_S)
        self._histograms.append((name, description, histogram))
        return histogram

    def collect(self) -> Iterable[Family]:
        for _, _, histogram in self._histograms:
            for family in histogram.collect():
                # prometheus_client adds a gauge of its own, when the histogram was created
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
                yield family

    def otlp(self) -> list[Metric]:
        """Return every histogram that has a value, as the SDK's exporters take it."""
        return [
            Metric(
                name=name,
                description=description,
                unit="s",
                data=HistogramData(data_points=[point], aggregation_temporality=AggregationTemporality.CUMULATIVE),
            )
            for name, description, histogram in self._histograms
            if (point := self._point(histogram)).count
        ]

    def _point(self, histogram: Histogram) -> HistogramDataPoint:
        samples = [sample for family in histogram.collect() for sample in family.samples]
        cumulative = [int(sample.value) for sample in samples if sample.name.endswith("_bucket")]
        return HistogramDataPoint(
            attributes={},
            start_time_unix_nano=self._started_ns,
            time_unix_nano=time.time_ns(),
            count=cumulative[-1],
            sum=next(sample.value for sample in samples if sample.name.endswith("_sum")),
            bucket_counts=[upper - lower for lower, upper in pairwise([0, *cumulative])],
            explicit_bounds=_BOUNDS_S,
            min=None,  # type: ignore[arg-type]  # optional in OTLP, and prometheus_client keeps none
            max=None,  # type: ignore[arg-type]
        )
