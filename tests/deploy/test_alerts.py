"""The alert rules fire when they should, and their runbooks name commands that exist."""

import re
import shlex
import subprocess
from typing import Any

import click
import pytest
from support.deploy_files import DEPLOY, document, tool

from reactor.cli import main

PROMETHEUS = DEPLOY / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in document(PROMETHEUS / "alerts.yml")["groups"] for rule in group["rules"]
]
BY_NAME = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [tool("promtool", "prometheus"), *arguments]
    return subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=50, check=False)


def test_prometheus_accepts_the_rules_and_the_configuration() -> None:
    for arguments in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_fire_when_they_should_and_not_before() -> None:
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@BY_NAME
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(rule: dict[str, Any]) -> None:
    firing = f'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"}}'
    expected = [
        bool(check["exp_samples"])
        for scene in document(PROMETHEUS / "alerts_test.yml")["tests"]
        for check in scene["promql_expr_test"]
        if firing in check["expr"]
    ]
    assert set(expected) == {True, False}


@BY_NAME
def test_each_alert_has_a_severity_a_summary_a_description_and_a_runbook_with_a_command(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "`" in rule["annotations"]["runbook"]


def commands_in(rule: dict[str, Any]) -> list[str]:
    """Return the `reactor` commands in a rule's runbook."""
    return [line for line in re.findall(r"`([^`]+)`", rule["annotations"]["runbook"]) if line.startswith("reactor ")]


@pytest.mark.parametrize("line", sorted({line for rule in RULES for line in commands_in(rule)}))
def test_each_command_in_a_runbook_exists(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, f"'{line}': no such command"
        command = found
    # replace the placeholders by an id, and let click parse the line
    zero = "00000000-0000-0000-0000-000000000000"
    command.make_context(line, [zero if word in {"ID", "USER"} else word for word in words])
