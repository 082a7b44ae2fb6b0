"""The demo checks its own books: what came of every file and run, against what was to come of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from reactor.demo.scenario import BUCKET, File, Play

_Connection = psycopg.Connection[dict[str, Any]]

_EXPECTED_CODE = {
    "refused": "STORAGE_REJECTED",
    "exhausted": "STORAGE_UPLOAD_FAILED",
    "missing": "SPOOL_FILE_MISSING",
    "changed": "CONTENT_MISMATCH",
}


def audit(url: str, store: Path, spool: Path, play: Play) -> list[str]:
    """Return everything that isn't as it must be, a line each; none when the books balance."""
    with psycopg.connect(url, row_factory=dict_row) as conn:
        return [*_check_uploads(conn, store, spool, play), *_check_usage(conn), *_check_runs(conn, play)]


def _check_uploads(conn: _Connection, store: Path, spool: Path, play: Play) -> Iterator[str]:
    left = {row["object_path"]: row for row in conn.execute("select * from public.upload_queue")}
    status = {row["file_name"]: row["storage_status"] for row in conn.execute("select * from public.sources")}
    spooled = {path.name for path in spool.iterdir()}
    for file in play.files:
        kept = store / BUCKET / file.key
        if file.ending == "stored":
            yield from _check_stored(file, kept, left.get(file.key), status[file.key])
            if file.key in spooled:
                yield f"{file.key} is stored, and its spooled file is still there"
        else:
            yield from _check_dead(file, kept, left.get(file.key, {}), status[file.key])
    if strange := left.keys() - {file.key for file in play.files}:
        yield f"{len(strange)} uploads in the queue that nobody made"


def _check_stored(file: File, kept: Path, queued: dict[str, Any] | None, status: str) -> Iterator[str]:
    if queued is not None:
        yield f"{file.key} should have been stored and is {queued['status']}"
    elif not kept.is_file() or kept.read_bytes() != file.content:
        yield f"{file.key}: the bytes in the store aren't the file's"
    elif status != "uploaded":
        yield f"{file.key} is stored, and its source says {status}"


def _check_dead(file: File, kept: Path, queued: dict[str, Any], status: str) -> Iterator[str]:
    code = queued.get("error_code")
    if code != _EXPECTED_CODE[file.ending]:
        yield f"{file.key} ({file.ending}) should be dead with {_EXPECTED_CODE[file.ending]}, not {code}"
    if kept.exists():
        yield f"{file.key} is dead, and there is something in the store"
    if status != "failed":
        yield f"{file.key} is dead, and its source says {status}"


def _check_usage(conn: _Connection) -> Iterator[str]:
    counted = conn.execute(
        "select user_id, sum(byte_size) filter (where storage_status = 'uploaded') as used,"
        " sum(byte_size) filter (where storage_status = 'pending') as reserved"
        " from public.sources group by user_id"
    )
    books = {row["user_id"]: row for row in conn.execute("select * from public.storage_usage")}
    for row in counted:
        book = books.get(row["user_id"], {"total_bytes": None, "reserved_bytes": None})
        if (book["total_bytes"], book["reserved_bytes"]) != (row["used"] or 0, row["reserved"] or 0):
            yield f"a user's books say {book['total_bytes']} bytes, their sources {row['used']}"


def _check_runs(conn: _Connection, play: Play) -> Iterator[str]:
    status = {row["id"]: row["status"] for row in conn.execute("select * from public.interpretation_runs")}
    for run in play.stale_runs:
        if status[run] != "failed":
            yield f"a stale run is {status[run]}"
    for run in play.healthy_runs:
        if status[run] != "completed":
            yield f"a healthy run is {status[run]}"
