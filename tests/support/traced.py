"""An app whose reactor stores into an S3 server that can fail, and exports its spans to a real Jaeger."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from attrs import frozen
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Tracer

from support import aws
from support.app import App, QueuedUpload
from support.process import Running, running, settings_of
from support.servers.fault_server import Fault, FaultServer, Request, stores
from support.servers.jaeger import Jaeger

_PATIENCE_S = 30.0


@frozen(kw_only=True)
class TracedApp:
    """An app, its S3 server, and the Jaeger that receives the spans of app and reactor."""

    app: App
    s3: FaultServer
    jaeger: Jaeger
    folder: Path

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a reactor."""
        env = settings_of(self.app, STORE_URL="s3://", TRACE_URL=self.jaeger.url)
        env |= aws.environment(self.s3.endpoint, access_key="key", secret_key="secret")
        env |= {"OTEL_EXPORTER_OTLP_ENDPOINT": self.jaeger.otlp["http/protobuf"], "OTEL_METRICS_EXPORTER": "none"}
        return env | {"OTEL_BSP_SCHEDULE_DELAY": "50"} | variables

    @contextmanager
    def reacting(self, **variables: str) -> Iterator[Running]:
        """Run `reactor run` until the end of the block."""
        with running(self.environment(**variables), cwd=self.folder) as run:
            run.wait_until_ready()
            yield run

    @contextmanager
    def tracer(self, service: str = "app", **attributes: str) -> Iterator[Tracer]:
        """Yield a tracer of the app. Each of its spans is exported when it ends."""
        provider = TracerProvider(resource=Resource({"service.name": service} | attributes), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(self.jaeger.otlp["http/protobuf"] + "/v1/traces")
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        yield provider.get_tracer("app")
        provider.shutdown()

    def trace_id(self, upload_id: UUID) -> str:
        """Return the trace id of a queued upload."""
        traceparent: str = self.app.one("select traceparent from public.upload_queue where id = %s", upload_id)
        return traceparent.split("-")[1]

    def wait_for(self, condition: Callable[[], bool], within_s: float = _PATIENCE_S) -> None:
        """Wait until a condition is true. Fails after `within_s`."""
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline, self.app.all(
                "select status, count(*) from public.upload_queue group by 1"
            )
            time.sleep(0.02)

    def wait_until_gone(self, *uploads: QueuedUpload) -> None:
        """Wait until the uploads have left the queue."""
        ids = [upload.id for upload in uploads]
        self.wait_for(lambda: not self.app.one("select count(*) from public.upload_queue where id = any(%s)", ids))


def one_by_one(*faults: Fault) -> Fault:
    """Return a fault that answers each request with the next of `faults`, and then stores."""
    left = list(faults)

    def fault(request: Request) -> None:
        (left.pop(0) if left else stores)(request)

    return fault
