"""Histograms of prometheus_client, exported at /metrics and over OTLP.

A value takes 0.8 µs in a histogram of prometheus_client. In a histogram of the OpenTelemetry SDK, it takes 4.0 µs, and
2.6 µs more for a second reader. An upload records up to three values.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from opentelemetry.sdk.metrics.export import AggregationTemporality, HistogramDataPoint, Metric, MetricsData
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from prometheus_client import Histogram
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histograms(Collector):
    """All histograms of one reactor, as a collector for prometheus_client's registry."""

    def __init__(self) -> None:
        self._histograms: dict[str, Histogram] = {}
        self._started_ns = time.time_ns()

    def create(self, name: str, description: str) -> Histogram:
        """Return a new histogram of seconds. `name` is the name in OpenTelemetry; /metrics appends `_seconds`."""
        prometheus_name = name.replace(".", "_") + "_seconds"
        self._histograms[name] = Histogram(prometheus_name, description, registry=None, buckets=_BOUNDS_S)
        return self._histograms[name]

    def collect(self) -> Iterable[Family]:
        for histogram in self._histograms.values():
            [family] = histogram.collect()
            # prometheus_client adds a gauge: the time at which the histogram was created
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def added_to(self, data: MetricsData) -> MetricsData:
        """Return `data` with all histograms that have values."""
        # the first resource and scope belong to the reactor, because some of its gauges always have a value
        first_resource, *resources = data.resource_metrics
        first_scope, *scopes = first_resource.scope_metrics
        first_scope = replace(first_scope, metrics=[*first_scope.metrics, *self._otlp()])
        first_resource = replace(first_resource, scope_metrics=[first_scope, *scopes])
        return replace(data, resource_metrics=[first_resource, *resources])

    def _otlp(self) -> Iterator[Metric]:
        for name, family in zip(self._histograms, self.collect(), strict=True):
            *cumulative, count, total = (sample.value for sample in family.samples)
            if count:
                point = HistogramDataPoint(
                    attributes={},
                    start_time_unix_nano=self._started_ns,
                    time_unix_nano=time.time_ns(),
                    count=int(count),
                    sum=total,
                    bucket_counts=[int(upper - lower) for lower, upper in pairwise([0.0, *cumulative])],
                    explicit_bounds=_BOUNDS_S,
                    min=None,  # type: ignore[arg-type]  # optional in OTLP, and prometheus_client has no minimum
                    max=None,  # type: ignore[arg-type]
                )
                data = HistogramData([point], AggregationTemporality.CUMULATIVE)
                yield Metric(name, family.documentation, "s", data)
