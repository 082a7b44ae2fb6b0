"""The app of the demo: users whose uploads fail, and interpretations of which some are forgotten by their workers."""

import random
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
from anyio import create_task_group, sleep, to_thread
from attrs import define, field, frozen

from reactor.client.async_client import ReactorClient
from reactor.demo.store import FOR_EVER, FlakyStore

BUCKET = "demo"
UPLOADS = 90
RUNS = 9
_EVERY_S = 0.09
_OUTAGE_S = (3.0, 6.0)

_FLAKY = frozenset({0, 6, 12, 18, 24, 30, 48, 66, 84})
"""Uploads that fail twice by themselves. Few after the outage: on a slow machine they are what is left at the end, and
five that fail with no success between them would be taken for another outage."""

_TRIES = 8
"""More than an upload can need that fails twice by itself and meets the outage as well."""


@frozen(kw_only=True)
class File:
    """One upload of the play, and how it is to end."""

    key: str
    user: UUID
    content: bytes
    ending: str
    """'stored', 'refused' (by the store), 'exhausted' (fails for ever), 'missing' or 'changed' (in the spool)."""

    @property
    def hash(self) -> str:
        return sha256(self.content).hexdigest()


@define(kw_only=True)
class Play:
    """What was acted, so that it can be compared with what came of it."""

    files: list[File] = field(factory=list)
    stale_runs: set[UUID] = field(factory=set)
    healthy_runs: set[UUID] = field(factory=set)


def cast(seed: int = 7) -> tuple[list[File], dict[str, int], frozenset[str]]:
    """Return the files, how often each object's put fails, and which are refused; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311  # a play, not a secret
    users = [UUID(int=chance.getrandbits(128), version=4) for _ in range(6)]
    files, fails, refused = [], {}, set()
    endings = {20: "refused", 41: "exhausted", 55: "missing", 70: "changed", 82: "refused"}
    for number in range(UPLOADS):
        ending = endings.get(number, "stored")
        content = chance.randbytes(0 if number == 1 else chance.choice((200, 5_000, 60_000, 400_000)))
        file = File(key=f"{number:03}.bin", user=chance.choice(users), content=content, ending=ending)
        files.append(file)
        fails[file.key] = FOR_EVER if ending == "exhausted" else 2 if number in _FLAKY else 0
        if ending == "refused":
            refused.add(file.key)
    return files, fails, frozenset(refused)


async def act(url: str, spool: Path, store: FlakyStore, play: Play, files: list[File]) -> None:
    """Act the whole play: uploads at a steady pace, an outage of the store in their midst, runs beside them."""
    async with create_task_group() as tasks:
        tasks.start_soon(_upload_all, url, spool, play, files)
        tasks.start_soon(_have_outage, store)
        tasks.start_soon(_interpret_all, url, play)


async def _have_outage(store: FlakyStore) -> None:
    begins_s, ends_s = _OUTAGE_S
    await sleep(begins_s)
    store.is_down = True
    await sleep(ends_s - begins_s)
    store.is_down = False


async def _upload_all(url: str, spool: Path, play: Play, files: list[File]) -> None:
    async with ReactorClient(url) as client:
        for file in files:
            await to_thread.run_sync(_spool, file, spool)
            await _queue(client, file)
            play.files.append(file)
            await sleep(_EVERY_S)


def _spool(file: File, spool: Path) -> None:
    """Leave the bytes where the reactor looks, whole: written beside, then renamed."""
    if file.ending == "missing":
        return
    content = file.content if file.ending != "changed" else file.content[:-1] + bytes([file.content[-1] ^ 1])
    beside = spool / f".{file.key}.part"
    beside.write_bytes(content)
    beside.rename(spool / file.key)


async def _queue(client: ReactorClient, file: File) -> None:
    """The app's own put has failed: its bytes were reserved, and are owed to the store from now on."""
    source = await client.reserve_upload(file.user, file.hash, len(file.content), file_name=file.key)
    tries, reason = 4 if file.ending == "exhausted" else _TRIES, "the app's own put failed"
    await client.fail_upload(source.source_id, BUCKET, file.key, file.key, reason, max_retries=tries)


async def _interpret_all(url: str, play: Play) -> None:
    """Begin runs; every third worker dies without a word, every third takes too long, the others finish."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        user, source = uuid4(), uuid4()
        await conn.execute(
            "insert into public.sources (id, user_id, content_hash, byte_size) values (%s, %s, %s, 0)",
            (source, user, sha256(source.bytes).hexdigest()),
        )
        for number in range(RUNS):
            run, fate = uuid4(), number % 3
            await conn.execute(
                "insert into public.interpretation_runs"
                " (id, user_id, source_id, status, timeout_at, heartbeat_timeout)"
                " values (%s, %s, %s, 'running', now() + make_interval(secs => %s), %s::interval)",
                (run, user, source, 2.0 + number / 7 if fate == 1 else 60.0, "1.5 s" if fate == 0 else "30 s"),
            )
            (play.healthy_runs if fate == 2 else play.stale_runs).add(run)  # noqa: PLR2004
        for _ in range(6):  # the healthy ones beat, and then complete
            await sleep(1.0)
            await conn.execute(
                "update public.interpretation_runs set heartbeat_at = clock_timestamp() where id = any(%s)",
                (list(play.healthy_runs),),
            )
        await conn.execute(
            "update public.interpretation_runs set status = 'completed', completed_at = now() where id = any(%s)",
            (list(play.healthy_runs),),
        )
