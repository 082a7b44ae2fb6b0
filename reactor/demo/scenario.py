"""The simulated app: users whose uploads fail, and interpretation runs, some of which go stale."""

import random
from collections.abc import Sequence
from hashlib import sha256
from math import inf
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from anyio import sleep, to_thread
from attrs import frozen

from reactor.client.async_client import ReactorClient

BUCKET = "demo"
UPLOADS = 90
RUNS = 9
_UPLOAD_INTERVAL_S = 0.09

_FAIL_TWICE = frozenset({0, 6, 12, 18, 24, 30, 48, 66, 84})
"""Numbers of the uploads whose first two puts fail, in addition to puts during the outage.

Only a few of these uploads start after the outage. If many did, they would be the last in the queue on a slow machine,
and would fail without a success between them. After five such failures, the circuit breaker opens."""

_MAX_RETRIES = 8
"""Enough for an upload that fails twice, and also fails during the outage."""

_MAX_RETRIES_EXHAUSTED = 4

RunEndings = dict[UUID, str]
"""Expected final status by run id: 'failed' if the run goes stale, else 'completed'."""


@frozen(kw_only=True)
class DemoFile:
    """One upload of the scenario, with its expected ending."""

    key: str
    user: UUID
    content: bytes
    ending: str
    """'stored', 'refused' (by the store), 'exhausted' (every put fails), 'missing' or 'changed' (in the spool)."""

    failing_puts: float
    """Number of puts that fail before the first success. Puts during the outage don't count."""


def make_files() -> list[DemoFile]:
    """Return the files. Each call returns the same files."""
    rng = random.Random(7)  # noqa: S311  # test data, not a secret
    users = [UUID(int=rng.getrandbits(128), version=4) for _ in range(6)]
    files = []
    endings = {20: "refused", 41: "exhausted", 55: "missing", 70: "changed", 82: "refused"}
    for number in range(UPLOADS):
        ending = endings.get(number, "stored")
        content = rng.randbytes(0 if number == 1 else rng.choice((200, 5_000, 60_000, 400_000)))
        failing_puts = inf if ending == "exhausted" else 2 if number in _FAIL_TWICE else 0
        user, key = rng.choice(users), f"{number:03}.bin"
        files.append(DemoFile(key=key, user=user, content=content, ending=ending, failing_puts=failing_puts))
    return files


async def fail_uploads(url: str, spool: Path, files: Sequence[DemoFile]) -> None:
    """Spool and queue the files, one every 0.09 s, like an app whose puts fail."""
    async with ReactorClient(url) as client:
        for file in files:
            await to_thread.run_sync(_write_to_spool, file, spool)
            content_hash = sha256(file.content).hexdigest()
            source = await client.reserve_upload(file.user, content_hash, len(file.content), file_name=file.key)
            retries = _MAX_RETRIES_EXHAUSTED if file.ending == "exhausted" else _MAX_RETRIES
            reason = "the app's own put failed"
            await client.fail_upload(source.source_id, BUCKET, file.key, file.key, reason, max_retries=retries)
            await sleep(_UPLOAD_INTERVAL_S)


def _write_to_spool(file: DemoFile, spool: Path) -> None:
    """Write the file under a temporary name, then rename it, so that the reactor never reads an incomplete file."""
    if file.ending == "missing":
        return
    content = file.content if file.ending != "changed" else file.content[:-1] + bytes([file.content[-1] ^ 1])
    unfinished = spool / f".{file.key}.part"
    unfinished.write_bytes(content)
    unfinished.rename(spool / file.key)


async def run_interpretations(url: str, endings: RunEndings) -> None:
    """Start runs of three kinds in turn: the worker dies; the run takes too long; the run completes.

    Adds the expected final status of each run to `endings`.
    """
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        user, source = uuid4(), uuid4()
        await conn.execute(
            "insert into public.sources (id, user_id, content_hash, byte_size) values (%s, %s, %s, 0)",
            (source, user, sha256(source.bytes).hexdigest()),
        )
        for number in range(RUNS):
            run = uuid4()
            worker_dies, takes_too_long = number % 3 == 0, number % 3 == 1
            timeout_s = 2.0 + number / 7 if takes_too_long else 60.0
            await conn.execute(
                "insert into public.interpretation_runs"
                " (id, user_id, source_id, status, timeout_at, heartbeat_timeout)"
                " values (%s, %s, %s, 'running', now() + make_interval(secs => %s), %s::interval)",
                (run, user, source, timeout_s, "1.5 s" if worker_dies else "30 s"),
            )
            endings[run] = "failed" if worker_dies or takes_too_long else "completed"
        healthy = [run for run, ending in endings.items() if ending == "completed"]
        for _ in range(6):  # heartbeats of the healthy runs, then their completion
            await sleep(1.0)
            await conn.execute(
                "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = any(%s)",
                (healthy,),
            )
        await conn.execute(
            "update public.interpretation_runs set status = 'completed', completed_at = now() where id = any(%s)",
            (healthy,),
        )
