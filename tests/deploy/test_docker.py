"""The containers of deploy/compose.yaml store and trace an upload: `pytest -m docker`, with a container engine.

One test runs a reactor outside of the containers, with PostgreSQL in a container and a store that fails twice. Then the
test reads the trace from Jaeger, which runs in another container.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from pytest_docker.plugin import Services, get_docker_services
from support import aws
from support.app import open_app
from support.container_engine import docker_is_available
from support.deploy_files import DEPLOY, SECRETS
from support.process import running, settings_of
from support.servers.fault_server import Fault, FaultServer, Request, answers, stores

from reactor.postgres.migrate import migrate

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

PASSWORD = "only-for-this-test"  # noqa: S105
PATIENCE_S = 30.0


def containers(*services: str) -> Iterator[Services]:
    """Start services of compose.yaml as a separate project on free ports; remove them and their volumes at the end."""
    if not docker_is_available():
        pytest.skip("no container engine answers `docker info` and `docker compose version`")
    ports = {f"{name}_PORT": "0" for name in ("POSTGRES", "JAEGER", "REACTOR", "S3", "PROMETHEUS", "GRAFANA")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ports | dict.fromkeys(SECRETS, PASSWORD)).items():
            patch.setenv(name, value)
        with get_docker_services(
            "docker compose",
            str(DEPLOY / "compose.yaml"),
            f"reactor-test-{os.getpid()}",
            [f"up --build --wait {' '.join(services)}"],
            ["down --volumes"],
        ) as running_services:
            yield running_services


@pytest.fixture
def postgres_and_jaeger() -> Iterator[Services]:
    yield from containers("postgres", "jaeger")


@pytest.fixture
def everything() -> Iterator[Services]:
    yield from containers()


def get_json(url: str) -> Any:
    with urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
        return json.load(answer)


def spans_of(jaeger: str, trace_id: str, complete: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Poll Jaeger until the trace is complete, because Jaeger stores spans some time after it receives them."""
    spans: list[dict[str, Any]] = []
    give_up = time.monotonic() + PATIENCE_S
    while not complete(spans):
        assert time.monotonic() < give_up, [span["name"] for span in spans]
        time.sleep(0.2)
        try:
            found = get_json(f"{jaeger}/api/v3/traces/{trace_id}")["result"]["resourceSpans"]
        except HTTPError as error:
            with error:
                if error.code != HTTPStatus.NOT_FOUND:  # 404: no span stored yet
                    raise
        else:
            spans = [span for resource in found for scope in resource["scopeSpans"] for span in scope["spans"]]
    return spans


def fails_twice() -> Fault:
    left = [answers(503), answers(503)]

    def fault(request: Request) -> None:
        (left.pop() if left else stores)(request)

    return fault


def test_an_upload_that_failed_twice_is_one_trace_in_jaeger(postgres_and_jaeger: Services, tmp_path: Path) -> None:
    port = postgres_and_jaeger.port_for
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port('postgres', 5432)}/postgres"
    migrate(url)
    with FaultServer() as store, open_app(url, tmp_path) as app:
        store.fault = fails_twice()
        env = settings_of(app, STORE_URL="s3://") | aws.environment(store.endpoint, access_key="k", secret_key="s")
        env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port('jaeger', 4318)}",
            "OTEL_TRACES_SAMPLER": "always_on",
        }
        with running(env, cwd=tmp_path) as run:
            run.wait_until_ready()
            [upload] = app.queue_uploads()
            row = app.row(upload)
            run.wait_for_line("stored 1000 bytes")
            run.terminate()
            assert run.ended() == 0
        assert row is not None
        trace_id = row["traceparent"].split("-")[1]

        def is_complete(spans: list[dict[str, Any]]) -> bool:
            return any(span["name"] == "upload" for span in spans)

        spans = spans_of(f"http://127.0.0.1:{port('jaeger', 16686)}", trace_id, is_complete)
    names = [span["name"] for span in spans]
    assert [names.count(name) for name in ("upload.queued", "upload.attempt", "upload.put", "upload")] == [1, 3, 3, 1]
    assert names.count("upload.backoff") >= 2
    attempts = [span for span in spans if span["name"] == "upload.attempt"]
    attempts.sort(key=lambda span: int(span["startTimeUnixNano"]))
    linked = [{link["spanId"] for link in attempt.get("links", [])} for attempt in attempts]
    assert linked == [set(), {attempts[0]["spanId"]}, {attempts[1]["spanId"]}]
    assert {span["traceId"] for span in spans} == {trace_id}


@pytest.mark.slow
def test_all_services_start_and_store_an_upload(everything: Services) -> None:
    port = everything.port_for
    assert get_json(f"http://127.0.0.1:{port('reactor', 8321)}/readyz") == {"ready": True, "reasons": []}
    compose = ["docker", "compose", "-p", f"reactor-test-{os.getpid()}", "-f", str(DEPLOY / "compose.yaml")]
    spool = "printf hello > /var/spool/reactor/hello"
    subprocess.run([*compose, "exec", "-T", "reactor", "sh", "-c", spool], check=True)
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port('postgres', 5432)}/postgres"
    script = (DEPLOY / "README.md").read_text().split("<<'SQL'\n")[1].split("select storage_status")[0]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(script.encode())
        give_up = time.monotonic() + PATIENCE_S
        while conn.execute("select storage_status from sources").fetchall() != [("uploaded",)]:
            assert time.monotonic() < give_up
            time.sleep(0.1)
    alerts = get_json(f"http://127.0.0.1:{port('prometheus', 9090)}/api/v1/rules")
    assert {rule["health"] for group in alerts["data"]["groups"] for rule in group["rules"]} <= {"ok", "unknown"}
    dashboard = get_json(f"http://127.0.0.1:{port('grafana', 3000)}/api/dashboards/uid/reactor")
    assert dashboard["dashboard"]["title"] == "Reactor"
