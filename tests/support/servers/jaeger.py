"""A real Jaeger 2: started with deploy/jaeger/config.yaml on free ports of loopback, and read by its query API."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from attrs import field, frozen

from support.deploy_files import DEPLOY
from support.servers.postgres import free_port

VERSION = "v1.76.0"  # .ci/run reads this line
"""The newest version that Go's module proxy has. Its program is Jaeger 2.13."""

_MODULE = "github.com/jaegertracing/jaeger/cmd/jaeger"
INSTALL = (
    "mkdir -p ~/jaeger && cd ~/jaeger && go mod init scratch"
    f" && go get -tool {_MODULE}@{VERSION} && go build -o jaeger {_MODULE}"
    " && export REACTOR_TEST_JAEGER=~/jaeger/jaeger"
)

_TIMEOUT_S = 20.0
_POLL_S = 0.05
_BATCH = 100
"""Number of traces in one request: an address has 16 KiB at most."""


def jaeger_program() -> str:
    """Return the program that REACTOR_TEST_JAEGER names, or `jaeger` on PATH. Skips the test if there is none."""
    named = os.environ.get("REACTOR_TEST_JAEGER")
    found = shutil.which(named or "jaeger")
    if found is None:
        assert not named, f"REACTOR_TEST_JAEGER names {named}, which isn't a program"
        pytest.skip(f"no jaeger on PATH, and REACTOR_TEST_JAEGER isn't set. With Go (takes 5 minutes): {INSTALL}")
    return found


@frozen(kw_only=True)
class JaegerSpan:
    """One span, as Jaeger returns it. Times are microseconds since 1970."""

    name: str
    span_id: str
    parent_id: str
    """Empty for a root."""

    links: tuple[tuple[str, str], ...]
    """Trace id and span id of each link."""

    start: int
    duration: int
    service: str
    tags: Mapping[str, Any] = field(hash=False)
    process: Mapping[str, Any] = field(hash=False)
    """The resource's attributes, without the service's name."""

    warnings: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.start + self.duration

    @property
    def is_error(self) -> bool:
        """Whether Jaeger shows the span in red."""
        return self.tags.get("error") is True


def named(spans: Sequence[JaegerSpan], name: str) -> list[JaegerSpan]:
    return [span for span in spans if span.name == name]


def only(spans: Sequence[JaegerSpan], name: str) -> JaegerSpan:
    [span] = named(spans, name)
    return span


def has(name: str, count: int = 1) -> Callable[[Sequence[JaegerSpan]], bool]:
    """Return a function that is true for spans of which `count` have this name."""
    return lambda spans: len(named(spans, name)) >= count


def assert_whole(spans: Sequence[JaegerSpan], root: str) -> None:
    """Assert that the spans are one tree below `root`, in which Jaeger finds nothing to warn of."""
    assert [span.warnings for span in spans if span.warnings] == []
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert [span.name for span in spans if span.parent_id not in ids] == [root]
    for span in spans:
        assert span.links == () or span.name in {"upload.attempt", "reconcile"}


class Jaeger:
    """A running Jaeger."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self.url = f"http://127.0.0.1:{ports['query']}"
        """The address of the query API and of the user interface."""
        self.otlp = {
            "http/protobuf": f"http://127.0.0.1:{ports['otlp']}",
            "grpc": f"http://127.0.0.1:{ports['otlp_grpc']}",
        }
        self.health_url = f"http://127.0.0.1:{ports['health']}/status"
        self.span_metrics = f"127.0.0.1:{ports['span_metrics']}"
        """Where Prometheus scrapes the span metrics."""
        self.prometheus_port = ports["prometheus"]
        """The port at which Jaeger looks for Prometheus."""

    def get(self, path: str, **parameters: Any) -> Any:
        """Return the field `data` of an answer of the query API."""
        with urlopen(f"{self.url}/api/{path}?{urlencode(parameters)}", timeout=60) as answer:  # noqa: S310  # our own
            return json.load(answer)["data"]

    def get_metrics(self, kind: str, parameters: Sequence[tuple[str, Any]]) -> Any:
        """Return what the Monitor shows: `kind` is calls, errors or latencies."""
        url = f"{self.url}/api/metrics/{kind}?{urlencode(parameters)}"
        with urlopen(url, timeout=60) as answer:  # noqa: S310  # our own
            return json.load(answer)

    def trace(self, trace_id: str, is_complete: Callable[[Sequence[JaegerSpan]], bool] = bool) -> list[JaegerSpan]:
        """Return the trace's spans by start (the longest first), once `is_complete` is true for them."""
        deadline = time.monotonic() + _TIMEOUT_S
        spans: list[JaegerSpan] = []
        while True:
            try:
                [trace] = self.get(f"traces/{trace_id}")
            except HTTPError as error:
                with error:
                    if error.code != HTTPStatus.NOT_FOUND:  # Jaeger stores spans some time after it accepts them
                        raise
            else:
                spans = spans_of(trace)
                if is_complete(spans):
                    return spans
            assert time.monotonic() < deadline, spans
            time.sleep(_POLL_S)

    def traces(self, trace_ids: Sequence[str]) -> Iterator[list[JaegerSpan]]:
        """Yield the spans of each of these traces that Jaeger has."""
        for first in range(0, len(trace_ids), _BATCH):
            parameters = [("traceID", trace_id) for trace_id in trace_ids[first : first + _BATCH]]
            with urlopen(f"{self.url}/api/traces?{urlencode(parameters)}", timeout=60) as answer:  # noqa: S310  # our own
                yield from map(spans_of, json.load(answer)["data"])

    def find(self, service: str = "reactor", *, tags: Mapping[str, str] | None = None, **query: Any) -> list[str]:
        """Return the ids of the traces that a search finds. `query` has Jaeger's parameters, such as `minDuration`."""
        if tags:
            query["tags"] = json.dumps(tags)
        return [trace["traceID"] for trace in self.get("traces", service=service, **query)]


def spans_of(trace: Mapping[str, Any]) -> list[JaegerSpan]:
    """Return the spans of a trace in Jaeger's JSON, by start, the longest first."""
    spans = [_span(span, trace["processes"][span["processID"]]) for span in trace["spans"]]
    return sorted(spans, key=lambda span: (span.start, -span.duration))


def _span(span: Mapping[str, Any], process: Mapping[str, Any]) -> JaegerSpan:
    references = {
        kind: [(each["traceID"], each["spanID"]) for each in span["references"] if each["refType"] == kind]
        for kind in ("CHILD_OF", "FOLLOWS_FROM")
    }
    [(_, parent_id)] = references["CHILD_OF"] or [("", "")]
    return JaegerSpan(
        name=span["operationName"],
        span_id=span["spanID"],
        parent_id=parent_id,
        links=tuple(references["FOLLOWS_FROM"]),
        start=span["startTime"],
        duration=span["duration"],
        service=process["serviceName"],
        tags={tag["key"]: tag["value"] for tag in span["tags"]},
        process={tag["key"]: tag["value"] for tag in process["tags"]},
        warnings=tuple(span["warnings"] or ()),
    )


@contextmanager
def running_jaeger(folder: Path, **settings: str) -> Iterator[Jaeger]:
    """Start Jaeger with deploy/jaeger/config.yaml; yield it when it is healthy. Its log is in `folder`.

    `settings` replace values of the file; a key has `__` between its parts.
    """
    program = jaeger_program()
    names = ("query", "query_grpc", "health", "otlp", "otlp_grpc", "span_metrics", "prometheus")
    ports = {name: free_port() for name in names}
    changed = {
        "extensions.jaeger_query.http.endpoint": f"127.0.0.1:{ports['query']}",
        "extensions.jaeger_query.grpc.endpoint": f"127.0.0.1:{ports['query_grpc']}",
        "extensions.jaeger_query.ui.config_file": str(DEPLOY / "jaeger/ui.json"),
        "extensions.healthcheckv2.http.endpoint": f"127.0.0.1:{ports['health']}",
        "receivers.otlp.protocols.http.endpoint": f"127.0.0.1:{ports['otlp']}",
        "receivers.otlp.protocols.grpc.endpoint": f"127.0.0.1:{ports['otlp_grpc']}",
        "exporters.prometheus.endpoint": f"127.0.0.1:{ports['span_metrics']}",
        "extensions.jaeger_storage.metric_backends.span_metrics.prometheus.endpoint": (
            f"http://127.0.0.1:{ports['prometheus']}"
        ),
        "connectors.spanmetrics.metrics_flush_interval": "200ms",
    } | {key.replace("__", "."): value for key, value in settings.items()}
    options = [f"--set={key}={value}" for key, value in changed.items()]
    jaeger = Jaeger(ports)
    with running_program(
        [program, f"--config={DEPLOY / 'jaeger/config.yaml'}", *options], jaeger.health_url, folder / "jaeger.log"
    ):
        yield jaeger


@contextmanager
def running_program(command: Sequence[str], health_url: str, log_file: Path) -> Iterator[None]:
    """Run a server; yield when `health_url` answers 200, and end the server after the block."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={})
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not answers(health_url):
            assert process.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline, log_file.read_text()
            time.sleep(_POLL_S)
        yield
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Return whether a GET request is answered with 200."""
    try:
        with urlopen(url, timeout=1) as answer:  # noqa: S310  # our own
            return bool(answer.status == HTTPStatus.OK)
    except OSError:  # also an HTTPError: not healthy yet
        return False
