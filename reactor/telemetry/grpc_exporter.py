"""Build the SDK's OTLP/gRPC exporters. Importing this module needs opentelemetry-exporter-otlp-proto-grpc."""

from pathlib import Path

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from reactor.telemetry.collector import Collector, ExportFailed


def span_exporter(collector: Collector) -> SpanExporter:
    """Return the SDK's exporter of spans."""
    return OTLPSpanExporter(
        endpoint=collector.url,
        insecure=_is_insecure(collector),
        credentials=_credentials(collector),
        headers=dict(collector.headers),
        timeout=collector.timeout_s,
        compression=_compression(collector),
    )


def metric_exporter(collector: Collector) -> MetricExporter:
    """Return the SDK's exporter of metrics."""
    return OTLPMetricExporter(
        endpoint=collector.url,
        insecure=_is_insecure(collector),
        credentials=_credentials(collector),
        headers=dict(collector.headers),
        timeout=collector.timeout_s,
        compression=_compression(collector),
    )


def probe(collector: Collector, timeout_s: float) -> None:
    """Export no span, once. Raises ExportFailed."""
    address = collector.name.partition("://")[2]
    credentials = _credentials(collector)
    channel = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    with channel:
        try:
            stub = TraceServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            stub.Export(ExportTraceServiceRequest(), metadata=tuple(collector.headers.items()), timeout=timeout_s)
        except grpc.RpcError as error:
            # the details may repeat what the server sent: only the status is ours to show
            raise ExportFailed(reason=f"the gRPC status is {error.code().name}") from None


def _is_insecure(collector: Collector) -> bool:
    return collector.url.startswith("http://")


def _credentials(collector: Collector) -> grpc.ChannelCredentials | None:
    if _is_insecure(collector):
        return None
    ca, key, certificate = (
        None if file is None else Path(file).read_bytes()
        for file in (collector.ca_file, collector.key_file, collector.certificate_file)
    )
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _compression(collector: Collector) -> grpc.Compression:
    return grpc.Compression.Gzip if collector.use_gzip else grpc.Compression.NoCompression
