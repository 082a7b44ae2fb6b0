"""`import reactor` offers the public names, and loads no module of the package."""

import subprocess
import sys

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
