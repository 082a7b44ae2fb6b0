"""Run a variant in a separate process, so that the imports of other variants don't slow it down."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Figures = dict[str, float]


def run_alone(module: str, *arguments: str) -> Figures:
    """Run a module of this package with arguments; return the figures in the last line that it prints."""
    run = subprocess.run(
        [sys.executable, "-m", f"{__package__}.{module}", *arguments],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    figures: Figures = json.loads(run.stdout.splitlines()[-1])
    return figures


def print_figures(figures: Mapping[str, float]) -> None:
    """Print figures as JSON for the bench process."""
    print(json.dumps(figures), flush=True)  # noqa: T201  # read by the bench
