"""What an SRE searches for in a real Jaeger: services, operations, tags, errors, durations; and the Monitor."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from support.deploy_files import DEPLOY, document, tool
from support.servers.fault_server import answers
from support.servers.jaeger import Jaeger, has, running_program
from support.traced import TracedApp, one_by_one

REFUSED = answers(400, "KeyTooLongError", "Your key is too long.")


def test_services_and_operations_are_those_that_an_sre_filters_by(traced: TracedApp) -> None:
    with traced.reacting():
        traced.s3.fault = one_by_one(answers(503, "SlowDown"))
        [upload] = traced.app.queue_uploads()
        run = traced.app.begin_run(timeout_at=traced.app.one("select clock_timestamp()"))
        traced.jaeger.trace(traced.trace_id(upload.id), has("upload"))
        traced.wait_for(lambda: bool(traced.jaeger.find(tags={"interpretation.id": str(run)})))
    assert "reactor" in traced.jaeger.get("services")
    operations = {each["name"]: each["spanKind"] for each in traced.jaeger.get("operations", service="reactor")}
    assert operations == {
        "upload": "internal",
        "upload.queued": "producer",
        "upload.attempt": "consumer",
        "upload.backoff": "internal",
        "upload.put": "client",
        "upload.settle": "client",
        "interpretation.timeout": "internal",
        "reconcile": "internal",
    }


def test_an_upload_is_found_by_its_id_its_user_an_error_and_its_duration(
    traced: TracedApp, jaeger_on_disk: Jaeger
) -> None:
    traced = evolve(traced, jaeger=jaeger_on_disk)
    find = traced.jaeger.find
    with traced.reacting(REACTOR_RETRY_BASE="0.4s"):
        traced.s3.fault = one_by_one(answers(503, "SlowDown"))
        [slow] = traced.app.queue_uploads()
        slow_trace = traced.trace_id(slow.id)
        traced.jaeger.trace(slow_trace, has("upload"))
        traced.s3.fault = one_by_one(REFUSED)
        [dead] = traced.app.queue_uploads()
        dead_trace = traced.trace_id(dead.id)
        traced.jaeger.trace(dead_trace, has("upload"))
        [fine] = traced.app.queue_uploads()
        fine_trace = traced.trace_id(fine.id)
        traced.jaeger.trace(fine_trace, has("upload"))
    ours = {slow_trace, dead_trace, fine_trace}
    for upload, trace_id in ((slow, slow_trace), (dead, dead_trace), (fine, fine_trace)):
        assert find(tags={"upload.id": str(upload.id)}) == [trace_id]
        assert find(tags={"user.id": str(upload.user)}) == [trace_id]
    assert ours.intersection(find(tags={"error": "true"}, limit=1000)) == {slow_trace, dead_trace}
    assert ours.intersection(find(tags={"error.type": "STORAGE_REJECTED"}, limit=1000)) == {dead_trace}
    dead_for_good = {"upload.outcome": "dead", "user.id": str(dead.user)}
    assert find(operation="upload", tags=dead_for_good) == [dead_trace]
    assert ours.intersection(find(operation="upload", minDuration="300ms", limit=1000)) == {slow_trace}
    assert ours.intersection(find(operation="upload.backoff", limit=1000)) == {slow_trace}


@contextmanager
def scraping(jaeger: Jaeger, folder: Path) -> Iterator[None]:
    """Run the Prometheus that Jaeger reads. It scrapes Jaeger as in compose.yaml, but five times a second."""
    config = document(DEPLOY / "prometheus/prometheus.yml")
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "jaeger"]
    job |= {
        "scrape_interval": "200ms",
        "scrape_timeout": "200ms",
        "static_configs": [{"targets": [jaeger.span_metrics]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))
    address = f"127.0.0.1:{jaeger.prometheus_port}"
    command = [
        tool("prometheus", "prometheus"), f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    ]  # fmt: skip
    with running_program(command, f"http://{address}/-/ready", folder / "prometheus.log"):
        yield


def newest(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the newest number of each operation that has one."""
    values = {}
    for metric in metrics["metrics"]:
        [operation] = [label["value"] for label in metric["labels"] if label["name"] == "operation"]
        numbers = [point["gaugeValue"]["doubleValue"] for point in metric["metricPoints"]]
        numbers = [number for number in numbers if number not in (0, "NaN")]
        if numbers:
            values[operation] = numbers[-1]
    return values


@pytest.mark.timeout(90)
def test_the_monitor_shows_rates_errors_and_durations_of_each_operation(traced: TracedApp, tmp_path: Path) -> None:
    def monitor(kind: str, **query: Any) -> dict[str, float]:
        parameters = {"service": "reactor", "groupByOperation": "true", "step": 1000, "ratePer": 60_000} | query
        kinds = [("spanKind", each) for each in ("producer", "consumer", "client", "internal")]
        return newest(traced.jaeger.get_metrics(kind, [*parameters.items(), *kinds]))

    with scraping(traced.jaeger, tmp_path), traced.reacting():

        def fail_once_and_store() -> None:
            traced.s3.fault = one_by_one(answers(503, "SlowDown"))
            [upload] = traced.app.queue_uploads()
            traced.wait_until_gone(upload)

        def shows_everything() -> bool:
            fail_once_and_store()  # a rate needs a change between two scrapes
            found = monitor("calls"), monitor("errors"), monitor("latencies", quantile=0.95)
            return all({"upload", "upload.attempt", "upload.put"} <= each.keys() for each in (found[0], found[2])) and (
                "upload.attempt" in found[1]
            )

        traced.wait_for(shows_everything)
        calls, errors, latencies = monitor("calls"), monitor("errors"), monitor("latencies", quantile=0.95)
    assert calls["upload.attempt"] > calls["upload"] > 0
    assert 0 < errors["upload.attempt"] < 1
    assert errors.keys() == {"upload.attempt"}  # only failed attempts are errors
    assert latencies["upload"] > latencies["upload.put"] > 0
