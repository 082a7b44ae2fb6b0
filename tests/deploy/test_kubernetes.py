"""The Kubernetes manifests are valid, hardened, and consistent with the image and the reactor's settings."""

import subprocess
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
from support.deploy_files import DEPLOY, document, documents, tool

from reactor import __version__
from reactor.cli import main
from reactor.configuration import load
from reactor.core.errors import ConfigInvalid

FOLDER = DEPLOY / "kubernetes"
KUBERNETES = "1.37"
FILES = [path for path in FOLDER.rglob("*.yaml") if path.name != "kustomization.yaml"]
OBJECTS: dict[str, dict[str, Any]] = {
    f"{found['kind']}/{found['metadata']['name']}": found for path in FILES for found in documents(path)
}
KUSTOMIZATIONS = {path.parent: document(path) for path in FOLDER.rglob("kustomization.yaml")}


def pod_of(name: str) -> dict[str, Any]:
    """Return the pod template of a Deployment, Job or CronJob."""
    spec: dict[str, Any] = OBJECTS[name]["spec"]
    template: dict[str, Any] = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]
    return template


PODS = ["Deployment/reactor", "CronJob/reactor-reconcile", "Job/reactor-migrate"]
DEPLOYMENT = OBJECTS["Deployment/reactor"]["spec"]
[REACTOR] = DEPLOYMENT["template"]["spec"]["containers"]


@pytest.mark.parametrize("name", OBJECTS)
def test_each_object_is_valid(name: str) -> None:
    kubernetes_validate.validate(OBJECTS[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_a_kustomization_names_every_file_and_builds(folder: Path) -> None:
    listed = set(KUSTOMIZATIONS[folder]["resources"])
    there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml", "secrets.example.yaml"}
    assert listed == there
    kubectl = tool("kubectl", "kubernetes-client")
    built = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, timeout=50, check=False)
    assert built.returncode == 0, built.stderr
    assert f"image: reactor:{__version__}" in built.stdout


def test_the_image_is_this_version() -> None:
    for kustomization in KUSTOMIZATIONS.values():
        [image] = kustomization["images"]
        assert image == {"name": "reactor", "newTag": __version__}


@pytest.mark.parametrize("name", PODS)
def test_each_pod_is_restricted(name: str) -> None:
    """Each pod meets the restricted Pod Security Standard and has no token for the Kubernetes API."""
    pod = pod_of(name)["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert f"USER {user}\n" in (DEPLOY / "Dockerfile").read_text()
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", PODS)
def test_each_container_runs_a_command_that_exists(name: str) -> None:
    [container] = pod_of(name)["spec"]["containers"]
    name, *options = container["args"]
    command = main.get_command(click.Context(main), name)
    assert command is not None
    command.make_context(name, options)


def test_a_reactor_stays_up_during_a_rollout_or_the_loss_of_a_node() -> None:
    assert DEPLOYMENT["replicas"] >= 2
    assert DEPLOYMENT["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert OBJECTS["PodDisruptionBudget/reactor"]["spec"]["minAvailable"] == DEPLOYMENT["replicas"] - 1


def test_probes_use_addresses_that_the_reactor_serves() -> None:
    [port] = REACTOR["ports"]
    paths = {name: REACTOR[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in paths.values()} == {port["name"]}
    assert (paths["startup"]["path"], paths["liveness"]["path"]) == ("/healthz", "/healthz")
    assert paths["readiness"]["path"] == "/readyz"
    assert port["containerPort"] == load({}, None).http_port


def test_selectors_match_only_the_reactors() -> None:
    labels = {name: pod_of(name)["metadata"]["labels"] for name in PODS}
    selectors = {
        "Deployment": DEPLOYMENT["selector"]["matchLabels"],
        "Service": OBJECTS["Service/reactor"]["spec"]["selector"],
        "PodDisruptionBudget": OBJECTS["PodDisruptionBudget/reactor"]["spec"]["selector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        found = [name for name in PODS if selector.items() <= labels[name].items()]
        assert found == ["Deployment/reactor"], kind
    policy = OBJECTS["NetworkPolicy/reactor"]["spec"]["podSelector"]["matchLabels"]
    assert all(policy.items() <= labels[name].items() for name in PODS)


def test_the_service_and_the_network_policy_name_the_reactors_port() -> None:
    [port] = REACTOR["ports"]
    [service] = OBJECTS["Service/reactor"]["spec"]["ports"]
    [rule] = OBJECTS["NetworkPolicy/reactor"]["spec"]["ingress"]
    assert service["targetPort"] == port["name"]
    assert [allowed["port"] for allowed in rule["ports"]] == [port["containerPort"]]


@pytest.mark.parametrize("name", ["Deployment/reactor", "CronJob/reactor-reconcile"])
def test_config_map_and_secret_are_valid_settings(name: str) -> None:
    """The reactor accepts the generated ConfigMap and the example secret, except the placeholder of the token."""
    [generated] = KUSTOMIZATIONS[FOLDER]["configMapGenerator"]
    pod = pod_of(name)["spec"]
    [container] = pod["containers"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": generated["name"]}},
        {"secretRef": {"name": "reactor"}},
    ]
    environ = dict(line.split("=", 1) for line in generated["literals"])
    environ |= OBJECTS["Secret/reactor"]["stringData"]
    with pytest.raises(ConfigInvalid) as refusal:
        load(environ, None)
    assert [problem.split()[0] for problem in refusal.value.problems] == ["REACTOR_HTTP_TOKEN"]
    settings = load(environ | {"REACTOR_HTTP_TOKEN": "t" * 48}, None)
    assert pod["terminationGracePeriodSeconds"] > settings.shutdown_grace_s + 3
    [mount] = container["volumeMounts"]
    assert settings.spools["default"] == Path(mount["mountPath"])


def test_all_pods_share_one_writable_spool() -> None:
    claim = OBJECTS["PersistentVolumeClaim/reactor-spool"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in ("Deployment/reactor", "CronJob/reactor-reconcile"):
        [volume] = pod_of(name)["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_only_the_migration_has_the_owners_password() -> None:
    [container] = pod_of("Job/reactor-migrate")["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "reactor-migrate"}}]
    others = [container for name in PODS[:2] for container in pod_of(name)["spec"]["containers"]]
    assert not any({"secretRef": {"name": "reactor-migrate"}} in other["envFrom"] for other in others)
