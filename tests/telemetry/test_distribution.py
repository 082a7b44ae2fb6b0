"""A distribution tells what the SDK's own histogram tells of the same values."""

import random

import pytest
from opentelemetry.sdk.metrics import Histogram as Instrument
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from reactor.telemetry.distribution import Distribution

BOUNDS = (0.001, 0.25, 1.0, 60.0)


def of_the_sdk(values: list[float]) -> HistogramDataPoint:
    reader = InMemoryMetricReader()
    view = View(instrument_type=Instrument, aggregation=ExplicitBucketHistogramAggregation(BOUNDS))
    meter = MeterProvider(metric_readers=[reader], views=[view]).get_meter("test")
    histogram = meter.create_histogram("spread")
    for value in values:
        histogram.record(value)
    data = reader.get_metrics_data()
    assert data is not None
    told = data.resource_metrics[0].scope_metrics[0].metrics[0].data
    assert isinstance(told, Histogram)
    return told.data_points[0]


def ours(values: list[float]) -> HistogramDataPoint:
    distribution = Distribution("spread", "s", "how values are spread", BOUNDS)
    for some in (values[:1], values[1:]):
        if some:
            distribution.record(some)
    metric = distribution.metric()
    assert metric is not None
    assert isinstance(metric.data, Histogram)
    return metric.data.data_points[0]


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [*BOUNDS],
        [1e9],
        [random.Random(seed).expovariate(1.0) for seed in range(500)],
    ],
    ids=["nothing", "bounds", "beyond", "many"],
)
def test_it_tells_what_the_sdk_tells(values: list[float]) -> None:
    expected, found = of_the_sdk(values), ours(values)
    for field in ("attributes", "count", "bucket_counts", "explicit_bounds", "min", "max"):
        assert getattr(found, field) == getattr(expected, field), field
    assert found.sum == pytest.approx(expected.sum)
    assert found.start_time_unix_nano <= found.time_unix_nano


def test_it_tells_of_nothing_before_there_is_anything() -> None:
    assert Distribution("spread", "s", "how values are spread", BOUNDS).metric() is None


def test_bounds_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        Distribution("spread", "s", "how values are spread", (1.0, 1.0))
