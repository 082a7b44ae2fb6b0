"""Command-line options: the number of seeds to run, and a seed to replay."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=100, help="with -m simulation: number of seeds to run (100)")
    group.addoption("--first-seed", type=int, default=1_000, help="with -m simulation: the first seed (1000)")
    group.addoption("--seed", type=int, default=None, help="with -m simulation: replay this seed, and print its trace")
