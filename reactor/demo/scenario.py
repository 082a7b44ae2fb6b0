"""The simulated app: users whose uploads fail, and interpretation runs, some of which go stale."""

import random
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from anyio import create_task_group, sleep, to_thread
from attrs import define, field, frozen

from reactor.client.async_client import ReactorClient
from reactor.demo.store import ALWAYS, FlakyStore

BUCKET = "demo"
UPLOADS = 90
RUNS = 9
_UPLOAD_INTERVAL_S = 0.09
_OUTAGE_FROM_S = 3.0
_OUTAGE_UNTIL_S = 6.0

_FAIL_TWICE = frozenset({0, 6, 12, 18, 24, 30, 48, 66, 84})
"""Numbers of the uploads that fail twice, outage aside.

Few of them come after the outage: on a slow machine they are the last ones left, and the breaker would take five
failures without a success between them for another outage."""

_MAX_RETRIES = 8
"""More than an upload needs that fails twice and also meets the outage."""

_MAX_RETRIES_EXHAUSTED = 4


@frozen(kw_only=True)
class DemoFile:
    """One upload of the scenario, and how it must end."""

    key: str
    user: UUID
    content: bytes
    ending: str
    """'stored', 'refused' (by the store), 'exhausted' (fails always), 'missing' or 'changed' (in the spool)."""

    @property
    def hash(self) -> str:
        return sha256(self.content).hexdigest()


@define(kw_only=True)
class Scenario:
    """What the app has done so far, for comparison with the result."""

    files: list[DemoFile] = field(factory=list)
    stale_runs: set[UUID] = field(factory=set)
    healthy_runs: set[UUID] = field(factory=set)


def make_files(seed: int = 7) -> tuple[list[DemoFile], dict[str, int], frozenset[str]]:
    """Return the files, how often the put of each key fails, and the keys that the store refuses.

    The same seed gives the same result.
    """
    rng = random.Random(seed)  # noqa: S311  # test data, not a secret
    users = [UUID(int=rng.getrandbits(128), version=4) for _ in range(6)]
    files, failures, refused = [], {}, set()
    endings = {20: "refused", 41: "exhausted", 55: "missing", 70: "changed", 82: "refused"}
    for number in range(UPLOADS):
        ending = endings.get(number, "stored")
        content = rng.randbytes(0 if number == 1 else rng.choice((200, 5_000, 60_000, 400_000)))
        file = DemoFile(key=f"{number:03}.bin", user=rng.choice(users), content=content, ending=ending)
        files.append(file)
        failures[file.key] = ALWAYS if ending == "exhausted" else 2 if number in _FAIL_TWICE else 0
        if ending == "refused":
            refused.add(file.key)
    return files, failures, frozenset(refused)


async def run_app(url: str, spool: Path, store: FlakyStore, scenario: Scenario, files: list[DemoFile]) -> None:
    """Queue uploads at a steady pace, with an outage of the store in between, and run interpretations beside them."""
    async with create_task_group() as tasks:
        tasks.start_soon(_fail_uploads, url, spool, scenario, files)
        tasks.start_soon(_interrupt_store, store)
        tasks.start_soon(_run_interpretations, url, scenario)


async def _interrupt_store(store: FlakyStore) -> None:
    await sleep(_OUTAGE_FROM_S)
    store.is_down = True
    await sleep(_OUTAGE_UNTIL_S - _OUTAGE_FROM_S)
    store.is_down = False


async def _fail_uploads(url: str, spool: Path, scenario: Scenario, files: list[DemoFile]) -> None:
    async with ReactorClient(url) as client:
        for file in files:
            await to_thread.run_sync(_write_to_spool, file, spool)
            await _queue(client, file)
            scenario.files.append(file)
            await sleep(_UPLOAD_INTERVAL_S)


def _write_to_spool(file: DemoFile, spool: Path) -> None:
    """Write the bytes under a temporary name, then rename, so that the reactor never reads an incomplete file."""
    if file.ending == "missing":
        return
    content = file.content if file.ending != "changed" else file.content[:-1] + bytes([file.content[-1] ^ 1])
    unfinished = spool / f".{file.key}.part"
    unfinished.write_bytes(content)
    unfinished.rename(spool / file.key)


async def _queue(client: ReactorClient, file: DemoFile) -> None:
    """Reserve the bytes, then report that the app's own put failed."""
    source = await client.reserve_upload(file.user, file.hash, len(file.content), file_name=file.key)
    max_retries = _MAX_RETRIES_EXHAUSTED if file.ending == "exhausted" else _MAX_RETRIES
    reason = "the app's own put failed"
    await client.fail_upload(source.source_id, BUCKET, file.key, file.key, reason, max_retries=max_retries)


async def _run_interpretations(url: str, scenario: Scenario) -> None:
    """Start runs of three kinds in turn: the worker dies, the run takes too long, the run completes."""
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
            (scenario.stale_runs if worker_dies or takes_too_long else scenario.healthy_runs).add(run)
        for _ in range(6):  # heartbeats of the healthy runs, then their completion
            await sleep(1.0)
            await conn.execute(
                "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = any(%s)",
                (list(scenario.healthy_runs),),
            )
        await conn.execute(
            "update public.interpretation_runs set status = 'completed', completed_at = now() where id = any(%s)",
            (list(scenario.healthy_runs),),
        )
