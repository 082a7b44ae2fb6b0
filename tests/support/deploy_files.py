"""Readers for the files under deploy/."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

SECRETS = ("POSTGRES_PASSWORD", "WORKER_PASSWORD", "S3_SECRET_KEY", "GRAFANA_PASSWORD", "REACTOR_HTTP_TOKEN")
"""The variables of compose.yaml that have no default."""


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def document(path: Path) -> dict[str, Any]:
    """Return the only document of a YAML file."""
    [only] = documents(path)
    return only


def variables(text: str) -> set[str]:
    """Return the REACTOR_ variables that a text mentions, except REACTOR_TEST_ variables."""
    return {name for name in re.findall(r"REACTOR_[A-Z_]*[A-Z]", text) if not name.startswith("REACTOR_TEST_")}


def tool(name: str, package: str) -> str:
    """Return the path of a program; skip the test and name the Debian package if it isn't installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} isn't installed (Debian: {package})")
    return found
