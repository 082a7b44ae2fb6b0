"""Command-line options: how many seeds to run, and which one to replay."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=100, help="with -m simulation: how many seeds to run (100)")
    group.addoption("--first-seed", type=int, default=1_000, help="with -m simulation: where to begin (1000)")
    group.addoption("--seed", type=int, default=None, help="with -m simulation: replay this one, and print its trace")
