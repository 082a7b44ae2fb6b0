"""Sets the stage, lets the app and the reactor play, waits for the end, and audits the books."""

import time
from pathlib import Path

import psycopg
from anyio import create_task_group, move_on_after, sleep, to_thread

from reactor.app import Reactor
from reactor.core.settings import Settings
from reactor.demo.scenario import BUCKET, Play, act, cast
from reactor.demo.store import FlakyStore
from reactor.demo.verification import audit
from reactor.demo.view import View
from reactor.storage.stores.local import LocalStore

_LONGEST_S = 40.0


async def perform(url: str, home: Path, view: View) -> list[str]:
    """Play it all on a migrated database; return what is wrong with the books afterwards."""
    spool, objects = home / "spool", home / "store"
    spool.mkdir()
    files, fails, refused = cast()
    store = FlakyStore(LocalStore(objects), fails, refused)
    settings = Settings(
        database_url=url,
        store_url=objects.as_uri(),
        spools={"default": spool},
        retry_base_s=0.5,
        retry_max_s=2.0,
        lease_s=5.0,
        shutdown_grace_s=3.0,
        http_port=0,
    )
    reactor = Reactor(settings, store=store, listener=view.hear)
    play = Play()
    began = time.monotonic()
    async with create_task_group() as tasks:
        tasks.start_soon(reactor.run)
        view.say(f"app     {len(files)} uploads are going to fail, into bucket {BUCKET}")
        with move_on_after(_LONGEST_S):
            await act(url, spool, store, play, files)
            await _until_settled(url, play)
        reactor.stop()
    seconds = time.monotonic() - began
    problems = await to_thread.run_sync(audit, url, objects, spool, play)
    view.summarise(objects.as_uri(), seconds)
    return problems


async def _until_settled(url: str, play: Play) -> None:
    """Wait until no upload waits and no run runs, looking a few times a second as an app might."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while True:
            row = await (
                await conn.execute(
                    "select (select count(*) from public.upload_queue where status in ('failed', 'uploading'))"
                    " + (select count(*) from public.interpretation_runs where status = 'running')"
                )
            ).fetchone()
            if row == (0,) and play.files:
                return
            await sleep(0.2)
