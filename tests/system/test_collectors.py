"""If a collector refuses, hangs, fails or restarts, spans are lost, but no work. A real collector accepts all data."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from support import aws
from support.app import App, QueuedUpload
from support.process import Running, reactor, running, settings_of
from support.servers.fault_server import FaultServer, stores
from support.servers.fault_server import answers as answers_badly
from support.servers.fault_server import hangs as store_hangs
from support.servers.otlp_receiver import ReceivedSpan, Receiver
from support.servers.rotel import agent, collecting

from reactor.core.errors import ConfigInvalid
from reactor.telemetry.dispatcher import Dispatcher

_TIMEOUT_S = 30.0
_MAX_DELAY_S = 3.0
"""Maximum difference between the shutdown times of a reactor with and without a collector."""


def traced(app: App, endpoint: str, **otel: str) -> dict[str, str]:
    return settings_of(app) | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} | otel


def wait_until_stored(app: App, uploads: list[QueuedUpload]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    ids = [upload.id for upload in uploads]
    while app.one("select count(*) from public.upload_queue where id = any(%s)", ids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refuses(_receiver: Receiver) -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def hangs(receiver: Receiver) -> str:
    receiver.answer = lambda: None
    return receiver.endpoint


def answers(status: int) -> Callable[[Receiver], str]:
    def fault(receiver: Receiver) -> str:
        receiver.answer = lambda: status
        return receiver.endpoint

    return fault


def shutdown_s(run: Running) -> float:
    """Stop a reactor; return the seconds until it has ended."""
    began = time.monotonic()
    run.terminate()
    assert run.ended() == 0
    return time.monotonic() - began


@pytest.fixture(scope="module")
def measured_s() -> list[float]:
    """Caches the measurement of `usual_s` for the tests of this file."""
    return []


@pytest.fixture
def usual_s(app: App, tmp_path: Path, measured_s: list[float]) -> float:
    """Seconds that a shutdown takes without a collector and with nothing in flight."""
    if not measured_s:
        with running(settings_of(app), cwd=tmp_path) as run:
            run.wait_until_ready()
            measured_s.append(shutdown_s(run))
    return measured_s[0]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(refuses, id="refuses"),
        pytest.param(hangs, id="hangs"),
        pytest.param(answers(503), id="503"),
        pytest.param(answers(401), id="401"),
    ],
)
def test_a_broken_collector_costs_spans_never_work_and_3_s_of_the_shutdown_at_most(
    app: App, tmp_path: Path, collector: Receiver, usual_s: float, fault: Callable[[Receiver], str]
) -> None:
    env = traced(app, fault(collector), OTEL_METRIC_EXPORT_INTERVAL="200", OTEL_BSP_SCHEDULE_DELAY="50")
    env["OTEL_EXPORTER_OTLP_TIMEOUT"] = "3000"
    with running(env, cwd=tmp_path) as run:
        run.wait_until_ready()
        uploads = app.queue_uploads(200)
        wait_until_stored(app, uploads)
        run.wait_for_line("doesn't accept spans")
        run.wait_for_line("doesn't accept metrics")
        more = app.queue_uploads(200)
        wait_until_stored(app, more)
        assert run.get("/readyz")[0] == 200

        delayed_s = shutdown_s(run) - usual_s
    assert delayed_s < _MAX_DELAY_S
    for upload in (*uploads, *more):
        app.assert_stored(upload)
    assert 2 <= run.log.count("doesn't accept") <= 2 * 4, run.log  # four lines of each signal in the first 71 s
    assert "Traceback" not in run.log
    assert run.log.count("spans lost: ") == 1
    assert not collector.spans


def test_an_abandoned_put_does_not_delay_the_shutdown(app: App, tmp_path: Path, usual_s: float) -> None:
    """The store accepts the connection and never answers; boto3 would wait for half a minute."""
    with FaultServer() as store:
        env = settings_of(app, STORE_URL="s3://", ATTEMPT_TIMEOUT="0.5s")
        env |= aws.environment(store.endpoint, access_key="key", secret_key="secret")
        with running(env, cwd=tmp_path) as run:
            run.wait_until_ready()
            store.fault = store_hangs
            app.queue_uploads(max_retries=1)
            run.wait_for_line("no answer within 0.5 s")
            assert shutdown_s(run) - usual_s < _MAX_DELAY_S


def test_a_collector_that_is_back_within_the_timeout_gets_every_span(
    app: App, tmp_path: Path, collector: Receiver
) -> None:
    collector.answer = lambda: 503
    with running(traced(app, collector.endpoint, OTEL_METRICS_EXPORTER="none"), cwd=tmp_path) as run:
        run.wait_until_ready()
        [upload] = app.queue_uploads()
        wait_until_stored(app, [upload])
        run.wait_for_line("doesn't accept spans: it answered 503")
        collector.answer = lambda: 200
        spans = collector.wait_for("upload")
        assert {span.name for span in spans} >= {"upload.queued", "upload.attempt", "upload.put", "upload.settle"}
        run.wait_for_line("accepts spans again")
        run.terminate()
        assert run.ended() == 0
    assert "lost" not in run.log
    assert collector.requests["/v1/metrics"] == 0


SPANS_OF_AN_UPLOAD = ("upload.queued", "upload.attempt", "upload.put", "upload.settle", "upload")


def count(spans: Sequence[ReceivedSpan]) -> Counter[str]:
    return Counter(span.name for span in spans if span.name in SPANS_OF_AN_UPLOAD)


@pytest.mark.rotel
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_real_collector_understands_all_spans_and_metrics(
    app: App, tmp_path: Path, collector: Receiver, compression: str, protocol: str
) -> None:
    program = agent()
    if program is None:
        pytest.skip("the wheel rotel isn't installed: no real collector here")
    with collecting(program, to=collector.endpoint) as endpoints:
        env = traced(app, endpoints[protocol], OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        env |= {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_EXPORTER_OTLP_COMPRESSION": compression}
        with running(env, cwd=tmp_path) as run:
            run.wait_until_ready()
            uploads = app.queue_uploads(300)
            wait_until_stored(app, uploads)
            spans = collector.wait(lambda spans: count(spans) == dict.fromkeys(SPANS_OF_AN_UPLOAD, 300))
            collector.wait_for_metric("storage.upload.attempts")
            run.terminate()
            assert run.ended() == 0
    assert "doesn't accept" not in run.log
    ids = {span.span_id for span in spans}
    assert all(span.parent_id in ids for span in spans if span.name == "upload.attempt")
    assert {span.resource["service.name"] for span in spans} == {"reactor"}


def test_the_last_spans_and_metrics_are_exported_before_the_exit(app: App, tmp_path: Path, collector: Receiver) -> None:
    """`reactor reconcile` ends before the first batch of spans would be sent."""
    app.disable_triggers()
    [upload] = app.queue_uploads()
    env = traced(app, collector.endpoint, OTEL_BSP_SCHEDULE_DELAY="60000")
    done = reactor("reconcile", env=env, cwd=tmp_path)
    assert (done.returncode, "stored 1" in done.stdout) == (0, True)
    spans = collector.wait_for("reconcile")
    [reconcile] = [span for span in spans if span.name == "reconcile" and span.links]
    [root] = [span for span in spans if span.attributes.get("upload.id") == str(upload.id) and not span.parent_id]
    assert reconcile.links == ((root.trace_id, root.span_id),)
    assert reconcile.attributes["reconcile.changed"] == 1
    [attempt] = [span for span in spans if span.name == "upload.attempt"]
    assert reconcile.start <= attempt.start <= reconcile.end
    assert "storage.upload.attempts" in collector.metrics


def test_opentelemetrys_own_variables_configure_everything(app: App, tmp_path: Path, collector: Receiver) -> None:
    env = traced(
        app,
        "http://127.0.0.1:9",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=collector.endpoint + "/v1/traces",
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.endpoint + "/v1/metrics",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc,x-tenant=one",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_SERVICE_NAME="retries",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test,host.name=elsewhere",
        OTEL_METRIC_EXPORT_INTERVAL="200",
    )
    with running(env, cwd=tmp_path) as run:
        run.wait_until_ready()
        wait_until_stored(app, app.queue_uploads())
        span = collector.wait_for("upload")[0]
        depth = collector.wait_for_metric("storage.queue.depth")
        run.terminate()
        assert run.ended() == 0
    assert span.resource["service.name"] == "retries"
    assert span.resource["deployment.environment.name"] == "test"
    assert span.resource["host.name"] == "elsewhere"
    assert len(depth.gauge.data_points) == 4
    for headers in collector.headers:
        assert (headers["authorization"], headers["x-tenant"]) == ("Bearer abc", "one")
        assert headers["content-encoding"] == "gzip"


def test_a_user_in_the_url_is_sent_as_a_header_also_through_a_proxy(
    app: App, tmp_path: Path, collector: Receiver
) -> None:
    """The receiver acts as the proxy. The collector's host does not exist, so only the proxy can answer."""
    app.queue_uploads()
    env = traced(app, "http://me:p%40ss@collector.invalid:4318", OTEL_METRICS_EXPORTER="none")
    env |= {"http_proxy": collector.endpoint, "no_proxy": "127.0.0.1"}
    done = reactor("reconcile", env=env, cwd=tmp_path)
    assert done.returncode == 0
    collector.wait_for("reconcile")
    assert {headers["authorization"] for headers in collector.headers} == {"Basic bWU6cEBzcw=="}
    assert {headers["host"] for headers in collector.headers} == {"collector.invalid:4318"}


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_no_request_is_sent_when_the_export_is_off(
    app: App, tmp_path: Path, collector: Receiver, off: dict[str, str]
) -> None:
    app.queue_uploads()
    done = reactor("reconcile", env=traced(app, collector.endpoint, OTEL_METRICS_EXPORTER="none", **off), cwd=tmp_path)
    assert (done.returncode, "stored 1" in done.stdout) == (0, True)
    assert not collector.requests


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318", "must be an http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://:secret@:4318/", "must be an http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "must be http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "must be gzip or none"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key secret", "must be name=value pairs"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=secret%0Ax", "must be name=value pairs"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "must be milliseconds above 0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "must be a whole number above 0"),
    ],
)
def test_an_invalid_variable_is_named_without_its_value(variable: str, value: str, words: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", variable: value}
    with pytest.raises(ConfigInvalid, match=f"^{variable} {words}") as refused:
        Dispatcher("0", environ)
    assert "secret" not in str(refused.value)


def test_an_invalid_variable_is_one_clear_line(app: App, tmp_path: Path) -> None:
    variable = "OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    env = traced(app, "http://127.0.0.1:9") | {variable: "x-key=secret%0Ax"}
    done = reactor("reconcile", env=env, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"reactor: {variable} must be name=value pairs")
    assert "secret" not in line


def test_a_kill_between_two_attempts_loses_no_wait(app: App, tmp_path: Path, collector: Receiver) -> None:
    with FaultServer() as store:
        env = traced(app, collector.endpoint, OTEL_BSP_SCHEDULE_DELAY="50", REACTOR_RETRY_BASE="2s")
        env |= {"REACTOR_STORE_URL": "s3://", **aws.environment(store.endpoint, access_key="key", secret_key="secret")}
        store.fault = answers_badly(503, "SlowDown")
        with running(env, cwd=tmp_path) as run:
            run.wait_until_ready()
            [upload] = app.queue_uploads()
            [first] = [span for span in collector.wait_for("upload.attempt") if span.name == "upload.attempt"]
            run.kill()
        assert first.is_error
        store.fault = stores
        with running(env, cwd=tmp_path) as run:
            run.wait_until_ready()
            wait_until_stored(app, [upload])
            spans = collector.wait_for("upload")
            run.terminate()
            assert run.ended() == 0
    mine = sorted(
        (span for span in spans if span.trace_id == first.trace_id and span.parent_id == first.parent_id),
        key=lambda span: (span.start, -span.end),
    )
    assert [span.name for span in mine] == ["upload", "upload.attempt", "upload.backoff", "upload.attempt"]
    for earlier, later in pairwise(mine[1:]):
        assert earlier.end == later.start
    assert mine[2].end - mine[2].start >= 1_800_000_000
    assert mine[3].links == ((first.trace_id, first.span_id),)
    assert mine[3].resource["service.instance.id"] != first.resource["service.instance.id"]
