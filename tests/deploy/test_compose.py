"""compose.yaml: well-formed, pinned, closed to others, and made of files and settings that are there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from botocore.exceptions import ClientError
from support.deploy_files import DEPLOY, ROOT, document, variables
from support.servers.seaweedfs import SeaweedServer

from reactor.configuration import load

COMPOSE = document(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?")

ENDS_BY_ITSELF = {"migrate", "worker-password", "bucket"}
NOTHING_TO_ASK_WITH = {"collector"}
"""Its image has neither a shell nor a client; Prometheus watches it, and nothing waits for it."""


def test_it_is_a_compose_file() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    assert PINNED.fullmatch(SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_on_loopback(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ENDS_BY_ITSELF - NOTHING_TO_ASK_WITH))
def test_every_server_is_asked_whether_it_works(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_who_is_waited_for_can_be(name: str) -> None:
    """And who ends by itself is waited for: else `up --wait` would take its end for a failure."""
    waited_for = {other for service in SERVICES.values() for other in service.get("depends_on", {})}
    assert name not in ENDS_BY_ITSELF or name in waited_for
    for other, how in SERVICES[name].get("depends_on", {}).items():
        ends = how["condition"] == "service_completed_successfully"
        assert ends == (other in ENDS_BY_ITSELF)
        assert ends or "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_every_mount_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists()
            assert volume.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")


def defaults_filled_in(text: str) -> str:
    """Return a value as compose reads it where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", ["reactor", "migrate"])
def test_the_reactor_takes_its_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {key: defaults_filled_in(value) for key, value in SERVICES[name]["environment"].items()}
    settings = load(environment, None)
    assert settings.database_url is not None
    assert "@postgres/" in settings.database_url


def test_the_reactor_spools_where_the_volume_is() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    [volume] = SERVICES["reactor"]["volumes"]
    assert f"REACTOR_SPOOL_DIR={volume.split(':')[1]}" in dockerfile


def test_prometheus_scrapes_the_reactor_where_it_serves() -> None:
    jobs = {job["job_name"]: job for job in document(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]}
    [target] = jobs["reactor"]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert any(published.endswith(f":{port}") for published in SERVICES[host]["ports"])


def test_the_collector_passes_on_what_the_reactor_sends() -> None:
    config = document(DEPLOY / "collector/config.yaml")
    for pipeline in config["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(config[part])
        assert pipeline["processors"][0] == "memory_limiter"
    assert set(config["service"]["pipelines"]) >= {"traces", "metrics"}  # both are pushed where an endpoint is set
    http = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    sent_to = SERVICES["reactor"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert sent_to == f"http://collector:{http.split(':')[1]}"
    assert config["exporters"]["otlp/jaeger"]["endpoint"].split(":")[0] in SERVICES


@pytest.mark.parametrize("path", sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ids=str)
def test_every_setting_that_is_spoken_of_is_one(path: Path) -> None:
    known = variables((ROOT / "README.md").read_text()) | variables((ROOT / "reactor/core/settings.py").read_text())
    only_compose_s_own = {"REACTOR_PORT"} if path.name == "compose.yaml" else set()
    assert variables(path.read_text()) <= known | only_compose_s_own


# SeaweedFS, for real: the same server, the same identities, the same script


class ComposeSeaweed(SeaweedServer):
    """The server with compose's identities."""

    def _identities(self) -> dict[str, object]:
        return document(DEPLOY / "seaweedfs/s3.json")

    @property
    def master(self) -> str:
        return f"127.0.0.1:{self._ports['master']}.{self._ports['master.grpc']}"


@pytest.fixture
def seaweed(tmp_path: Path) -> Iterator[ComposeSeaweed]:
    environment = SERVICES["reactor"]["environment"]
    server = ComposeSeaweed(tmp_path)
    server.access_key = environment["AWS_ACCESS_KEY_ID"]
    server.secret_key = environment["AWS_SECRET_ACCESS_KEY"]
    with server:
        yield server


@pytest.mark.s3
def test_the_bucket_is_made_once_and_the_reactors_key_works_there_alone(seaweed: ComposeSeaweed) -> None:
    script = SERVICES["bucket"]["entrypoint"][-1].replace("$$", "$")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for _ in range(2):  # `compose up` a second time
        done = subprocess.run(
            ["/bin/sh", "-c", script], env={"PATH": path, "MASTER": seaweed.master}, capture_output=True, text=True,
            timeout=50, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    client = seaweed.client()
    client.put_object(Bucket="documents", Key="a/b.txt", Body=b"x")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket="other", Key="a/b.txt", Body=b"x")
    client.close()


@pytest.mark.s3
def test_seaweedfs_knows_its_options_and_answers_its_health_check(seaweed: ComposeSeaweed) -> None:
    weed = Path(sys.executable).with_name("weed")
    known = subprocess.run([weed, "server", "-h"], capture_output=True, text=True, check=False)
    options = [word.partition("=")[0] for word in SERVICES["seaweedfs"]["command"][1:]]
    assert set(options) <= set(re.findall(r"^  (-\S+)", known.stdout + known.stderr, re.MULTILINE))

    probe = urlsplit(SERVICES["seaweedfs"]["healthcheck"]["test"][-1])
    with urlopen(seaweed.endpoint + probe.path, timeout=10) as answer:  # noqa: S310  # our own
        assert answer.status == 200
