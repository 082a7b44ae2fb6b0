"""The README's first command works in a copy of the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.markdown import ROOT, blocks
from support.process import environment

COPIED = ("reactor", "schema", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_command_installs_and_demonstrates(reachable_folder: Path) -> None:
    [command] = [block for block in blocks(ROOT / "README.md") if block.comment.endswith(Path(__file__).name)]
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, reachable_folder / name)
    env = environment() | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", command.text],
        cwd=reachable_folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
