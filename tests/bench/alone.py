"""A contender in a process of its own, set up as its own command would: it doesn't carry what the others import."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Figures = dict[str, float]


def alone(module: str, *arguments: str) -> Figures:
    """Run a module of this package with arguments; return the figures that it tells at its end."""
    run = subprocess.run(
        [sys.executable, "-m", f"{__package__}.{module}", *arguments],
        stdout=subprocess.PIPE,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    figures: Figures = json.loads(run.stdout.splitlines()[-1])
    return figures


def tell(figures: Mapping[str, float]) -> None:
    """Tell whoever ran this module."""
    print(json.dumps(figures), flush=True)  # noqa: T201  # to the bench
