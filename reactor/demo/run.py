"""Runs the demo: starts the reactor and the simulated app, waits until all work is done, and verifies the result."""

import time
from pathlib import Path

import psycopg
from anyio import create_task_group, move_on_after, sleep, to_thread

from reactor.app import Reactor
from reactor.core.settings import Settings
from reactor.demo.scenario import BUCKET, RunEndings, fail_uploads, make_files, run_interpretations
from reactor.demo.store import FlakyStore
from reactor.demo.verification import find_mismatches
from reactor.demo.view import DemoView

_TIMEOUT_S = 40.0
_POLL_S = 0.2


async def run_demo(url: str, home: Path, view: DemoView) -> list[str]:
    """Run the demo on a migrated database. Return the differences from the expected result, one line each."""
    spool, store_folder = home / "spool", home / "store"
    spool.mkdir()
    files = make_files()
    run_endings = RunEndings()
    store = FlakyStore(store_folder, {file.key: file for file in files})
    settings = Settings(
        database_url=url,
        store_url=store_folder.as_uri(),
        spools={"default": spool},
        retry_base_s=0.5,
        retry_max_s=2.0,
        lease_s=5.0,
        shutdown_grace_s=3.0,
        http_port=0,
    )
    reactor = Reactor(settings, store=store, listener=view.show)
    started_at = time.monotonic()
    async with create_task_group() as tasks:
        tasks.start_soon(reactor.run)
        view.print_line(f"app     {len(files)} uploads to bucket {BUCKET} are about to fail")
        with move_on_after(_TIMEOUT_S):
            async with create_task_group() as app:
                app.start_soon(store.interrupt)
                app.start_soon(fail_uploads, url, spool, files)
                app.start_soon(run_interpretations, url, run_endings)
            await _wait_until_settled(url)
        reactor.stop()
    elapsed_s = time.monotonic() - started_at
    mismatches = await to_thread.run_sync(find_mismatches, url, store_folder, spool, files, run_endings)
    view.print_summary(store_folder.as_uri(), elapsed_s)
    return mismatches


async def _wait_until_settled(url: str) -> None:
    """Wait until no upload is waiting and no run is running. Polls the database."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        unsettled = (
            "select from public.upload_queue where status in ('failed', 'uploading')"
            " union all select from public.interpretation_runs where status = 'running'"
        )
        while (await conn.execute(unsettled)).rowcount > 0:  # noqa: ASYNC110 - no event says that rows changed
            await sleep(_POLL_S)
