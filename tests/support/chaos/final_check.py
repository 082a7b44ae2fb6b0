"""Checks the invariants in the database, the store and the spool after the faults are over.

The checks use the answers that the app got (load.py), the audit (db_audit.py) and the final state. They use no figure
that the reactor reports. The invariants by number:

I1 no upload is lost; I2 effects happen exactly once; I3 a valid lease is not taken over; I4 a stored object has all its
bytes; I5 attempts are bounded and never early; I6 no user exceeds the limit; I7 reservations equal the pending bytes;
I10 a healthy run is never failed; I11 a stale run is always failed; I12 a run that has ended does not change; I15
the spool has only the app's files; I20 nothing stays claimed.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from attrs import define, field

from support.chaos.db_audit import connection_to, expiries_s, takeovers_s, violations
from support.chaos.load import BUCKET, History, Intent
from support.usage_check import wrong_usage

_LOOK_EVERY_S = 0.05

Objects = Callable[[str], bytes | None]
"""Returns the content of the object with this key, or None if the store has no such object."""

_Conn = psycopg.Connection[dict[str, Any]]


@define
class Findings:
    """The result of the check. `problems` is empty if no invariant is violated."""

    problems: list[str] = field(factory=list)
    stored: int = 0
    dead: int = 0
    left_in_spool: list[str] = field(factory=list)
    """Spooled files of stored uploads, left by reactors that were killed before they could remove them."""

    takeovers_s: list[float] = field(factory=list)
    expiries_s: list[float] = field(factory=list)


def folder_objects(store: Path) -> Objects:
    """Return a reader of the objects in a LocalStore's folder."""

    def read(key: str) -> bytes | None:
        path = store / BUCKET / key
        return path.read_bytes() if path.exists() else None

    return read


def wait_until_drained(url: str, *, within_s: float) -> float:
    """Wait until no upload is waiting or claimed; return the seconds that this took. Fails after `within_s`."""
    began = time.monotonic()
    statement = "select count(*) as n from public.upload_queue where status in ('failed', 'uploading')"
    while True:
        with connection_to(url) as conn:
            while (left := conn.execute(statement).fetchall()[0]["n"]) and time.monotonic() - began < within_s:
                time.sleep(_LOOK_EVERY_S)
            took_s = time.monotonic() - began
            if not left:
                return took_s
            rows = conn.execute("select * from public.upload_queue where status <> 'dead' limit 5").fetchall()
        raise AssertionError(f"{left} uploads are left after {took_s:.1f} s: {rows}")


def check(url: str, spool: Path, objects: Objects, history: History, *, within_s: float = 30.0) -> Findings:
    """Wait until everything is drained, then check every invariant."""
    wait_until_drained(url, within_s=within_s)
    findings = Findings()
    with connection_to(url) as conn:
        findings.problems += violations(conn)
        _check_runs(conn, history, findings, within_s)
        sources = {row["id"]: row for row in conn.execute("select * from public.sources")}
        dead = {row["id"]: row for row in conn.execute("select * from public.upload_queue where status = 'dead'")}
        for intent in history.intents:
            _check_intent(intent, sources, dead, objects, findings)
        _check_usage(conn, findings)
        findings.takeovers_s, findings.expiries_s = takeovers_s(conn), expiries_s(conn)
    _check_spool(spool, {intent.name for intent in history.intents if intent.source in sources}, dead, findings)
    return findings


def _check_intent(
    intent: Intent, sources: Mapping[Any, Any], dead: Mapping[Any, Any], objects: Objects, findings: Findings
) -> None:
    if not intent.acknowledged:
        return
    stored = objects(intent.name)
    source = sources.get(intent.source)
    if source is None:
        findings.problems.append(f"I1 a source is lost: {intent.source}")
    elif intent.queue_id in dead:
        findings.dead += 1
        if source["storage_status"] != "failed":
            findings.problems.append(
                f"I1 an upload is dead, but its source is {source['storage_status']}: {intent.source}"
            )
    elif source["storage_status"] != "uploaded":
        findings.problems.append(
            f"I1 an upload left the queue, but its source is {source['storage_status']}: {intent.source}"
        )
    elif stored != intent.content:
        size = "no object" if stored is None else f"{len(stored)} bytes"
        findings.problems.append(
            f"I4 {len(intent.content)} bytes were uploaded, but the store has {size}: {intent.name}"
        )
    else:
        findings.stored += 1


def _check_usage(conn: _Conn, findings: Findings) -> None:
    findings.problems += [f"I2/I7 wrong usage: {row}" for row in wrong_usage(conn)]
    over = conn.execute(
        "select * from public.storage_usage where total_bytes + reserved_bytes > storage_limit_bytes"
    ).fetchall()
    findings.problems += [f"I6 a user is over the limit: {row}" for row in over]
    twice = conn.execute(
        "select storage_url from public.sources where storage_url <> 'elsewhere:' group by 1 having count(*) > 1"
    )
    findings.problems += [f"I2 two sources have the same object: {row}" for row in twice]
    held = conn.execute("select * from public.upload_queue where lease_token is not null").fetchall()
    findings.problems += [f"I20 a row is still claimed: {row}" for row in held]


def _check_runs(conn: _Conn, history: History, findings: Findings, within_s: float) -> None:
    """Check that the status of each run matches the answers that its worker got, and that abandoned runs failed."""
    give_up = time.monotonic() + within_s
    while conn.execute("select from public.interpretation_runs where status = 'running'").fetchall():
        if time.monotonic() > give_up:
            findings.problems.append("I11 an abandoned run is still running")
            break
        time.sleep(_LOOK_EVERY_S)
    rows = {row["id"]: row for row in conn.execute("select * from public.interpretation_runs")}
    for run in history.runs:
        row = rows.get(run.id)
        if row is None:
            if run.began:
                findings.problems.append(f"I12 a run is lost: {run.id}")
        elif run.completed and row["status"] != "completed":
            findings.problems.append(f"I12 a completed run is now {row['status']}: {run.id}")
        elif (run.lost or run.abandoned) and row["status"] != "failed":
            findings.problems.append(f"I12 a lost or abandoned run is {row['status']}: {run.id} ({run.lost})")


def _check_spool(spool: Path, stored: set[str], dead: Mapping[Any, Any], findings: Findings) -> None:
    """Check that dead uploads kept their files; wait up to 5 s for the removal of stored uploads' files."""
    kept = {row["temp_file_path"] for row in dead.values()}
    give_up = time.monotonic() + 5.0
    while True:
        there = {str(path.relative_to(spool)) for path in spool.rglob("*") if path.is_file()}
        findings.left_in_spool = sorted((there - kept) & stored)
        if not findings.left_in_spool or time.monotonic() > give_up:
            break
        time.sleep(_LOOK_EVERY_S)
    findings.problems += [f"I1 a dead upload's file is missing: {name}" for name in kept - there]
    findings.problems += [
        f"I15 the spool has a file that the app didn't spool: {name}" for name in there - kept - stored
    ]
