"""What lies under deploy/, read."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def document(path: Path) -> dict[str, Any]:
    """Return the only one."""
    [only] = documents(path)
    return only


def variables(text: str) -> set[str]:
    """Return the REACTOR_ variables that a text speaks of, but for those of the tests."""
    return {name for name in re.findall(r"REACTOR_[A-Z_]*[A-Z]", text) if not name.startswith("REACTOR_TEST_")}


def tool(name: str, package: str) -> str:
    """Return the path of a program, or skip the test, saying what would bring it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} isn't installed (Debian: {package})")
    return found
