"""The configurations of Jaeger and of the collector in compose.yaml, checked and run by real programs.

Jaeger's program is built of the OpenTelemetry collector and has all parts of collector/config.yaml, so that it checks
and runs that file too.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.app import App
from support.deploy_files import DEPLOY, document
from support.process import running, settings_of
from support.servers.jaeger import assert_whole, has, jaeger_program, running_jaeger, running_program
from support.servers.postgres import free_port

SERVICES: dict[str, Any] = document(DEPLOY / "compose.yaml")["services"]
JAEGER: dict[str, Any] = document(DEPLOY / "jaeger/config.yaml")
CONFIGURATIONS = ("jaeger/config.yaml", "collector/config.yaml")


def validate(*configurations: str) -> subprocess.CompletedProcess[str]:
    command = [jaeger_program(), "validate", *(f"--config={each}" for each in configurations)]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_program_accepts_the_configuration(configuration: str) -> None:
    done = validate(str(DEPLOY / configuration))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_program_refuses_a_wrong_name(configuration: str) -> None:
    done = validate(str(DEPLOY / configuration), "yaml:receivers::otlp::protocols::http::endpiont: 1")
    assert done.returncode != 0
    assert "endpiont" in done.stderr


def test_compose_starts_jaeger_with_this_configuration() -> None:
    service = SERVICES["jaeger"]
    [option] = service["command"]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    targets = {target: source for source, target in mounts.items()}
    query = JAEGER["extensions"]["jaeger_query"]
    assert targets[option.removeprefix("--config=")] == "./jaeger/config.yaml"
    assert targets[query["ui"]["config_file"]] == "./jaeger/ui.json"
    assert any(port.endswith(query["http"]["endpoint"].rpartition(":")[2]) for port in service["ports"])
    health = JAEGER["extensions"]["healthcheckv2"]["http"]["endpoint"].rpartition(":")[2]
    assert service["healthcheck"]["test"][-1] == f"http://127.0.0.1:{health}/status"
    collector = document(DEPLOY / "collector/config.yaml")
    otlp = JAEGER["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    assert collector["exporters"]["otlp/jaeger"]["endpoint"] == f"jaeger:{otlp}"


def test_prometheus_scrapes_the_span_metrics_and_jaeger_reads_them_from_it() -> None:
    port = JAEGER["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    jobs = {job["job_name"]: job for job in document(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]}
    assert jobs["jaeger"]["static_configs"] == [{"targets": [f"jaeger:{port}"]}]
    [storage] = JAEGER["extensions"]["jaeger_storage"]["metric_backends"].values()
    assert storage["prometheus"]["endpoint"] == "http://prometheus:9090"
    assert any(published.endswith(":9090") for published in SERVICES["prometheus"]["ports"])


def test_a_trace_reaches_jaeger_through_the_collectors_configuration(app: App, tmp_path: Path) -> None:
    http, grpc, metrics = free_port(), free_port(), free_port()
    readers = [{"pull": {"exporter": {"prometheus": {"host": "127.0.0.1", "port": metrics}}}}]
    with running_jaeger(tmp_path) as jaeger:
        moved = {
            "receivers::otlp::protocols": {
                "http": {"endpoint": f"127.0.0.1:{http}"},
                "grpc": {"endpoint": f"127.0.0.1:{grpc}"},
            },
            "exporters::otlp/jaeger::endpoint": jaeger.otlp["grpc"].removeprefix("http://"),
            "service::telemetry::metrics::readers": readers,
        }
        options = [f"--config=yaml:{key}: {json.dumps(value)}" for key, value in moved.items()]
        command = [jaeger_program(), f"--config={DEPLOY / 'collector/config.yaml'}", *options]
        env = settings_of(app) | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{http}"}
        env |= {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
        with (
            running_program(command, f"http://127.0.0.1:{metrics}/metrics", tmp_path / "collector.log"),
            running(env, cwd=tmp_path) as run,
        ):
            run.wait_until_ready()
            with app.conn.transaction():
                [upload] = app.queue_uploads()
                row = app.row(upload)
            assert row is not None
            assert_whole(jaeger.trace(row["traceparent"].split("-")[1], has("upload")), "upload.queued")
            assert "doesn't accept" not in run.log
