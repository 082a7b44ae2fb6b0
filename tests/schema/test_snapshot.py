"""schema/snapshot.sql is the schema of a migrated database: a review sees in it what a change really does.

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
"""The version that the snapshot is of: each one dumps the same schema in words of its own."""


def dump(url: str) -> str:
    """Return the schema in pg_dump's words, without what differs from run to run."""
    command = [str(installed_binaries()[MAJOR] / "pg_dump"), "--schema-only", "--no-owner", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kept = [line for line in printed.splitlines() if not re.match(r"--|\\(un)?restrict|SET |SELECT pg_catalog", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def test_the_snapshot_is_what_the_migrations_make(migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as conn:
        major = conn.info.server_version // 10000
    if major != MAJOR:
        pytest.skip(f"the snapshot is of PostgreSQL {MAJOR}, and this server is {major}")
    snapshot = schema_dir() / "snapshot.sql"
    dumped = dump(migrated_url)
    if os.environ.get("REACTOR_TEST_UPDATE_SNAPSHOT"):
        snapshot.write_text(dumped, encoding="utf-8")
    assert dumped == snapshot.read_text(encoding="utf-8")
