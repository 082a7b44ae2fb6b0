"""The TypeScript of deploy/supabase.md compiles under `tsc --strict`, with supabase-js's own types.

npm installs the compiler and the types into a temporary folder. The test is skipped if npm is missing or offline.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from support.markdown import ROOT, blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGES = ("typescript@5.9.3", "@supabase/supabase-js@2.80.0")
NPM_S = 120

PRELUDE = """
import { createClient } from "@supabase/supabase-js";
const supabase = createClient("https://project.example.org", "key");
declare const user: { id: string };
declare const file: File;
declare const sha256Hex: string;
declare const sourceId: string;
declare const abort: AbortController;
declare function spoolAndFail(sourceId: string, path: string, file: File): Promise<void>;
declare function interpret(sourceId: string, signal: AbortSignal): Promise<void>;
"""
"""Names that the examples expect the surrounding app to define."""

MISTAKE = "await spoolAndFail(17, 'path', file);\n"
OPTIONS = (
    "--strict",
    "--noEmit",
    "--skipLibCheck",
    "--target",
    "es2022",
    "--module",
    "nodenext",
    "--lib",
    "es2022,dom",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which npm installed the compiler and supabase-js."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm isn't installed (Debian: npm): no TypeScript compiler")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", *PACKAGES]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm installed no TypeScript compiler within {NPM_S} s: its registry is slow or can't be reached")
    if done.returncode != 0:
        pytest.skip(
            f"npm installed no TypeScript compiler: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
        )
    return folder


def test_every_typescript_block_compiles_and_a_mistake_does_not(folder: Path) -> None:
    """The compiler checks all blocks and the mistake in one run, because its start takes seconds."""
    blocks = blocks_of("ts")
    assert {block.path for block in blocks} == {ROOT / "deploy/supabase.md"}
    names = ["mistake.ts"]
    (folder / "mistake.ts").write_text(PRELUDE + MISTAKE)
    for block in blocks:
        names.append(f"block{block.line}.ts")
        (folder / names[-1]).write_text(PRELUDE + block.text)
    command = [str(folder / "node_modules/.bin/tsc"), *OPTIONS, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    [complaint] = done.stdout.splitlines()
    assert complaint.startswith("mistake.ts(")
    assert "error TS2345" in complaint
