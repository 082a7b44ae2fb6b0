"""Verifies the demo: compares the queue, the store, the usage and the runs with the scenario."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from reactor.core.counted import counted
from reactor.demo.scenario import BUCKET, DemoFile, RunEndings

_Connection = psycopg.Connection[dict[str, Any]]

_EXPECTED_CODE = {
    "refused": "STORAGE_REJECTED",
    "exhausted": "STORAGE_UPLOAD_FAILED",
    "missing": "SPOOL_FILE_MISSING",
    "changed": "CONTENT_MISMATCH",
}


def find_mismatches(
    url: str, store: Path, spool: Path, files: Sequence[DemoFile], run_endings: RunEndings
) -> list[str]:
    """Return each difference from the expected result, one line each; empty if there is none."""
    with psycopg.connect(url, row_factory=dict_row) as conn:
        return [*_check_uploads(conn, store, spool, files), *_check_usage(conn), *_check_runs(conn, run_endings)]


def _check_uploads(conn: _Connection, store: Path, spool: Path, files: Sequence[DemoFile]) -> Iterator[str]:
    queued = {
        row["object_path"]: row
        for row in conn.execute("select object_path, status, error_code from public.upload_queue")
    }
    status = {
        row["file_name"]: row["storage_status"]
        for row in conn.execute("select file_name, storage_status from public.sources")
    }
    spooled = {path.name for path in spool.iterdir()}
    for file in files:
        stored_path = store / BUCKET / file.key
        if file.ending == "stored":
            yield from _check_stored(file, stored_path, queued.get(file.key), status.get(file.key))
            if file.key in spooled:
                yield f"{file.key} is stored, but its spooled file still exists"
        else:
            yield from _check_dead(file, stored_path, queued.get(file.key, {}), status.get(file.key))
    if unexpected := queued.keys() - {file.key for file in files}:
        yield f"the queue has {counted(len(unexpected), 'upload')} outside the scenario"


def _check_stored(file: DemoFile, stored_path: Path, row: dict[str, Any] | None, status: str | None) -> Iterator[str]:
    if row is not None:
        yield f"{file.key} should be stored but is {row['status']}"
    elif not stored_path.is_file() or stored_path.read_bytes() != file.content:
        yield f"{file.key}: the stored bytes differ from the file"
    elif status != "uploaded":
        yield f"{file.key} is stored, but its source is {status}"


def _check_dead(file: DemoFile, stored_path: Path, row: dict[str, Any], status: str | None) -> Iterator[str]:
    code = row.get("error_code")
    if code != _EXPECTED_CODE[file.ending]:
        yield f"{file.key} ({file.ending}) should be dead with {_EXPECTED_CODE[file.ending]}, not {code}"
    if stored_path.exists():
        yield f"{file.key} is dead, but the store has an object for it"
    if status != "failed":
        yield f"{file.key} is dead, but its source is {status}"


def _check_usage(conn: _Connection) -> Iterator[str]:
    """Compare each user's usage with the sum of their sources."""
    sums = conn.execute(
        "select user_id, sum(byte_size) filter (where storage_status = 'uploaded') as used,"
        " sum(byte_size) filter (where storage_status = 'pending') as reserved"
        " from public.sources group by user_id"
    )
    usage = {
        row["user_id"]: row
        for row in conn.execute("select user_id, total_bytes, reserved_bytes from public.storage_usage")
    }
    for row in sums:
        recorded = usage.get(row["user_id"], {"total_bytes": None, "reserved_bytes": None})
        if (recorded["total_bytes"], recorded["reserved_bytes"]) != (row["used"] or 0, row["reserved"] or 0):
            yield f"a user's recorded usage is {recorded['total_bytes']} bytes, but their sources have {row['used']}"


def _check_runs(conn: _Connection, run_endings: RunEndings) -> Iterator[str]:
    status = {row["id"]: row["status"] for row in conn.execute("select id, status from public.interpretation_runs")}
    for run, expected in run_endings.items():
        if status[run] != expected:
            yield f"a {'stale' if expected == 'failed' else 'healthy'} run is {status[run]}"
