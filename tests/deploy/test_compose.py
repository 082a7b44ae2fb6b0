"""compose.yaml is valid. Its images are pinned, its ports are on loopback only, its files and settings exist."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from botocore.exceptions import ClientError
from support.deploy_files import DEPLOY, ROOT, SECRETS, document, variables
from support.servers.seaweedfs import SeaweedServer

from reactor.configuration import load

COMPOSE = document(DEPLOY / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PINNED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?")

ONE_SHOT = {"migrate", "worker-password", "bucket"}
NO_HEALTHCHECK = {"collector"}
"""The collector's image has no program that could check its health. No service waits for the collector."""


def test_the_file_is_valid_for_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str) -> None:
    assert PINNED.fullmatch(SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_port_is_on_loopback(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT - NO_HEALTHCHECK))
def test_every_server_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_every_dependency_has_a_condition_that_can_be_met(name: str) -> None:
    """A one-shot service must be a dependency; otherwise `up --wait` reports its exit as a failure."""
    waited_for = {other for service in SERVICES.values() for other in service.get("depends_on", {})}
    assert name not in ONE_SHOT or name in waited_for
    for other, how in SERVICES[name].get("depends_on", {}).items():
        ends = how["condition"] == "service_completed_successfully"
        assert ends == (other in ONE_SHOT)
        assert ends or "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_every_mount_has_an_existing_source(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            assert (DEPLOY / source).exists()
            assert volume.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")


SECRET = "only-for-this-test"  # noqa: S105
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")


def with_defaults(text: str) -> str:
    """Return a value as compose reads it when all secrets are SECRET and no other variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", REQUIRED.sub(SECRET, text))


def test_no_secret_has_a_default_and_the_readme_creates_each() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(REQUIRED.findall(text)) == set(SECRETS)
    assert {name for name in re.findall(r"\$\{(\w+):-", text) if not name.endswith("_PORT")} == set()
    for line in (line for line in text.splitlines() if not line.startswith("#")):
        if re.search(r"password|secret|token", line.partition(" #")[0], re.IGNORECASE) and ": " in line:
            value = line.split(": ", 1)[1]
            assert "$" in value or value.startswith(("{", "#", "[")) or "condition" in value, line
    command = (DEPLOY / "README.md").read_text().split("```sh\n")[1].split("docker compose")[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "deploy").mkdir()
        subprocess.run(["/bin/sh", "-c", command], cwd=folder, check=True)
        created = Path(folder) / "deploy" / ".env"
        values = dict(line.split("=") for line in created.read_text().splitlines())
        assert created.stat().st_mode & 0o077 == 0
    assert values.keys() == set(SECRETS)
    assert len(set(values.values())) == len(SECRETS)
    assert all(len(value) == 48 for value in values.values())


@pytest.mark.parametrize("name", ["reactor", "migrate"])
def test_a_container_of_the_reactor_is_restricted(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0, "nofile": 65536}


@pytest.mark.parametrize("name", ["reactor", "migrate"])
def test_the_reactor_accepts_its_settings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {key: with_defaults(value) for key, value in SERVICES[name]["environment"].items()}
    settings = load(environment, None)
    assert settings.database_url is not None
    assert "@postgres/" in settings.database_url


def test_the_reactor_spools_where_the_volume_is() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    [volume] = SERVICES["reactor"]["volumes"]
    assert f"REACTOR_SPOOL_DIR={volume.split(':')[1]}" in dockerfile


def test_prometheus_scrapes_the_reactors_port() -> None:
    jobs = {job["job_name"]: job for job in document(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"]}
    [target] = jobs["reactor"]["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert any(published.endswith(f":{port}") for published in SERVICES[host]["ports"])


def test_the_collector_forwards_what_the_reactor_exports() -> None:
    config = document(DEPLOY / "collector/config.yaml")
    for pipeline in config["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(config[part])
        assert pipeline["processors"][0] == "memory_limiter"
    assert set(config["service"]["pipelines"]) >= {"traces", "metrics"}  # the reactor exports both
    http = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    sent_to = SERVICES["reactor"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert sent_to == f"http://collector:{http.split(':')[1]}"
    assert config["exporters"]["otlp/jaeger"]["endpoint"].split(":")[0] in SERVICES


@pytest.mark.parametrize("path", sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ids=str)
def test_every_setting_that_a_file_mentions_exists(path: Path) -> None:
    known = variables((ROOT / "README.md").read_text()) | variables((ROOT / "reactor/core/settings.py").read_text())
    own_variables = {"REACTOR_PORT"} if path.name == "compose.yaml" else set()
    assert variables(path.read_text()) <= known | own_variables


# a real SeaweedFS with compose's identities, options and script


class ComposeSeaweed(SeaweedServer):
    """A SeaweedFS server with the identities of compose.yaml."""

    def _identities(self) -> dict[str, object]:
        identities: dict[str, object] = json.loads(with_defaults(COMPOSE["configs"]["s3_identities"]["content"]))
        return identities

    @property
    def master(self) -> str:
        return f"127.0.0.1:{self._ports['master']}.{self._ports['master.grpc']}"


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeSeaweed]:
    environment = SERVICES["reactor"]["environment"]
    server = ComposeSeaweed(tmp_path_factory.mktemp("seaweed"))
    server.access_key = environment["AWS_ACCESS_KEY_ID"]
    server.secret_key = with_defaults(environment["AWS_SECRET_ACCESS_KEY"])
    with server:
        yield server


@pytest.mark.s3
def test_the_bucket_is_created_once_and_the_reactors_key_works_only_there(seaweed: ComposeSeaweed) -> None:
    script = SERVICES["bucket"]["entrypoint"][-1].replace("$$", "$")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for _ in range(2):  # the script runs again at each `compose up`
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
def test_seaweedfs_accepts_its_options_and_answers_its_health_check(seaweed: ComposeSeaweed) -> None:
    weed = Path(sys.executable).with_name("weed")
    known = subprocess.run([weed, "server", "-h"], capture_output=True, text=True, check=False)
    options = [word.partition("=")[0] for word in SERVICES["seaweedfs"]["command"][1:]]
    assert set(options) <= set(re.findall(r"^  (-\S+)", known.stdout + known.stderr, re.MULTILINE))

    probe = urlsplit(SERVICES["seaweedfs"]["healthcheck"]["test"][-1])
    with urlopen(seaweed.endpoint + probe.path, timeout=10) as answer:  # noqa: S310  # our own
        assert answer.status == 200
