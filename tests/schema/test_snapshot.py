"""schema/snapshot.sql is the migrated schema: tables, constraints, policies, grants, triggers and signatures.

In a review, its diff shows how a change affects the database. Function bodies are only in schema/functions/.

After a change: REACTOR_TEST_UPDATE_SNAPSHOT=1 pytest tests/schema/test_snapshot.py
"""

import os
import re
import subprocess

import psycopg
import pytest

from reactor.embedded.binaries import installed_binaries
from reactor.postgres.migrate import schema_dir

MAJOR = 18
"""The PostgreSQL version of the snapshot. The output of pg_dump differs between versions."""

_BODY = re.compile(r"\n    AS (\$\w*\$).*?\1;", re.DOTALL)


def dump(url: str) -> str:
    """Return the schema as pg_dump writes it, without function bodies and without lines that differ between runs."""
    command = [str(installed_binaries()[MAJOR] / "pg_dump"), "--schema-only", "--no-owner", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    signatures = _BODY.sub(";", printed)
    kept = [
        line for line in signatures.splitlines() if not re.match(r"--|\\(un)?restrict|SET |SELECT pg_catalog", line)
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def test_the_snapshot_is_the_schema_of_a_migrated_database(migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as conn:
        major = conn.info.server_version // 10000
    if major != MAJOR:
        pytest.skip(f"the snapshot is of PostgreSQL {MAJOR}, and this server is {major}")
    snapshot = schema_dir() / "snapshot.sql"
    dumped = dump(migrated_url)
    if os.environ.get("REACTOR_TEST_UPDATE_SNAPSHOT"):
        snapshot.write_text(dumped, encoding="utf-8")
    assert dumped == snapshot.read_text(encoding="utf-8")
    assert "AS $" not in dumped, "the snapshot contains a function body"
