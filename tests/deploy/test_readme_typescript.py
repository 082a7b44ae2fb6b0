"""The READMEs' TypeScript compiles under `tsc --strict`, with supabase-js's own types.

The compiler and the types come from npm, into a temporary folder. Without Node.js, or offline, this is skipped.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from support.markdown import ROOT, Block, blocks_of

PACKAGES = ("typescript@5.9.3", "@supabase/supabase-js@2.80.0")
NPM_S = 120

PRELUDE = """
import { createClient } from "@supabase/supabase-js";
const supabase = createClient("https://project.example.org", "key");
declare const user: { id: string };
declare const file: File;
declare const sha256Hex: string;
declare const abort: AbortController;
declare function spoolAndFail(sourceId: string, path: string, file: File): Promise<void>;
"""
"""What the examples expect of the app around them."""


@pytest.fixture(scope="module")
def tsc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `tsc` is installed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm isn't installed (Debian: npm): no TypeScript compiler")
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline", *PACKAGES]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm brought no TypeScript compiler within {NPM_S} s: its registry is slow or can't be reached")
    if done.returncode != 0:
        pytest.skip(f"npm brought no TypeScript compiler: {done.stderr.strip().splitlines()[-1]}")
    return folder


def compiled(text: str, folder: Path) -> str:
    """Return what the compiler says of a module; empty when it compiles."""
    (folder / "example.ts").write_text(PRELUDE + text)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom"]
    command = [str(folder / "node_modules/.bin/tsc"), *options, "example.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", blocks_of("ts"), ids=lambda block: block.name)
def test_typescript(block: Block, tsc: Path) -> None:
    assert compiled(block.text + "export {};\n", tsc) == ""


@pytest.mark.timeout(300)
def test_a_mistake_in_typescript_is_found(tsc: Path) -> None:
    assert "error TS2345" in compiled("await spoolAndFail(17, 'path', file);\n", tsc)


def test_the_readme_has_typescript() -> None:
    assert [block.path for block in blocks_of("ts")] == [ROOT / "README.md"]
