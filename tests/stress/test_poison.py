"""One row in twenty is poisoned. Each poisoned row is dead with a reason, and all good rows are stored."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.app import App, open_app
from support.recorder import Recorder
from support.stubborn_store import StubbornStore

from reactor.core.errors import StorageRejected
from reactor.core.events import AttemptSettled, RunExpired
from reactor.core.model import Verdict
from reactor.storage.stores.base import Body

if TYPE_CHECKING:
    from uuid import UUID

POISON: dict[str, dict[str, Any]] = {
    "the largest size": {"byte_size": 2**63 - 1},
    "size 0": {"byte_size": 0},
    "a path out of the spool": {"temp_file_path": "../../../../etc/passwd"},
    "a very long path": {"temp_file_path": "a/" * 20_000 + "a"},
    "no path": {"temp_file_path": None},
    "an empty path": {"temp_file_path": ""},
    "a path with control characters": {"temp_file_path": "\x01\x1b[2J\r\n\t"},
    "a path with odd characters": {"temp_file_path": "\u202e\ufffd\U0010ffff\u0301/\u2028"},
    "an unknown spool": {"spool": "\u202ea' or 1=1 --"},
    "a text that isn't a hash": {"content_hash": "not a hash"},
    "a hash of other bytes": {"content_hash": "0" * 64},
    "a hash in capitals": {"content_hash": "A" * 64},
    "a bucket ..": {"bucket": ".."},
    "a bucket with a slash": {"bucket": "a/b"},
    "an empty bucket": {"bucket": ""},
    "an object path with ..": {"object_path": "../../../tmp/out"},
    "an absolute object path": {"object_path": "/etc/out"},
    "a very long object path": {"object_path": "a" * 50_000},
    "an object path with control characters": {"object_path": "a\nb\x1b[31m/.."},
    "no attempt allowed": {"max_retries": 0},
    "no attempt left": {"retry_count": 7, "max_retries": 5},
}

HARMLESS: dict[str, dict[str, Any]] = {
    "metadata that isn't an object": {"metadata": '"text"'},
    "deeply nested metadata": {"metadata": "[" * 500 + "]" * 500},
    "errors that aren't a list": {"errors": '"text"'},
    "the due time -infinity": {"next_retry_at": "-infinity"},
    "a due time long ago": {"next_retry_at": "4714-11-24 00:00:00+00 BC"},
    "an invalid traceparent": {"traceparent": "00-nonsense"},
    "a traceparent with control characters": {"traceparent": "\x1b[31m" * 100},
    "created in the future": {"created_at": "infinity", "updated_at": "-infinity"},
    "an earlier error": {"error_code": "\x1b]0;x\x07", "error_message": "x" * 100_000},
    "the most claims": {"claim_count": 2**31 - 2},
}

GOOD = 20 * (len(POISON) + 2)


class BuggyStore(StubbornStore):
    """A store that, for some keys, raises exceptions that no store should raise."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bugs: dict[str, BaseException] = {}

    def put(self, bucket: str, key: str, body: Body, *, mime_type: str | None) -> str:
        if error := self.bugs.get(key):
            raise error
        return super().put(bucket, key, body, mime_type=mime_type)


@pytest.fixture
def app(migrated_url: str, tmp_path: Path) -> Iterator[App]:
    with open_app(migrated_url, tmp_path) as app:
        app.conn.execute("update public.quota_plans set storage_limit_bytes = null")
        yield app


async def test_poisoned_rows_are_dead_with_a_reason_and_all_others_are_stored(app: App, recorder: Recorder) -> None:
    store = BuggyStore(app.store)
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            good = app.queue_uploads(GOOD)
            poisoned = {name: app.queue_uploads(**columns)[0] for name, columns in POISON.items()}
            harmless = {name: app.queue_uploads(**columns)[0] for name, columns in HARMLESS.items()}
            [bug], [recursion] = app.queue_uploads(max_retries=2), app.queue_uploads(max_retries=2)
            store.bugs |= {bug.key: RuntimeError("a bug"), recursion.key: RecursionError("another")}
            [never] = app.queue_uploads(next_retry_at="infinity")
        stored = {upload.id for upload in [*good, *harmless.values()]}
        while stored:
            settled = await recorder.wait_for(AttemptSettled, lambda settled: settled.verdict is Verdict.STORED)
            stored.discard(settled.upload_id)
        await recorder.wait_for_all(
            2, AttemptSettled, lambda s: s.verdict is Verdict.DEAD and s.upload_id in (bug.id, recursion.id)
        )
        await app.drain()  # a concurrent reconciliation, which makes a row dead if it has no retries left

    for upload in good:
        app.assert_stored(upload)
    for upload in harmless.values():
        assert app.row(upload) is None
        assert app.stored_path(upload).read_bytes() == upload.content
    for name, upload in poisoned.items():
        row = app.row(upload)
        assert row is not None, name
        assert (row["status"], bool(row["error_code"]), bool(row["error_message"])) == ("dead", True, True), (name, row)
        assert row["retry_count"] <= max(1, POISON[name].get("retry_count", 0)), name
        assert not app.stored_path(upload).exists(), name
    for upload in (bug, recursion):
        row = app.row(upload)
        assert row is not None
        assert (row["status"], row["error_code"], row["retry_count"]) == ("dead", "STORAGE_UPLOAD_FAILED", 2)
    assert app.all("select status, retry_count from public.upload_queue where id = %s", never.id) == [
        {"status": "failed", "retry_count": 0}
    ]
    assert app.one("select count(*) from public.upload_queue where status = 'uploading'") == 0


async def test_poisoned_runs_do_not_prevent_others_from_being_failed(app: App, recorder: Recorder) -> None:
    times = ["-infinity", "infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59+00", None]
    async with app.running_reactor(recorder):
        with app.conn.transaction():
            due: list[UUID] = []
            for timeout_at in times:
                for heartbeat_at in times[:-1]:
                    for patience in ("1 microsecond", "178000000 years"):
                        columns = {"heartbeat_at": heartbeat_at, "heartbeat_timeout": patience}
                        app.begin_run(timeout_at=timeout_at, **columns)
                due += [app.begin_run(timeout_at="2000-01-01") for _ in range(60)]
        expired: set[UUID] = set()
        while not expired.issuperset(due):
            expired.add((await recorder.wait_for(RunExpired)).run_id)


async def test_control_characters_are_removed_from_a_stores_message(app: App, recorder: Recorder) -> None:
    store = StubbornStore(app.store)
    async with app.running_reactor(recorder, store=store):
        with app.conn.transaction():
            [upload] = app.queue_uploads()
            store.fail(upload.key, StorageRejected("no\0thing \x1b[31m\r\nred"))
        await recorder.wait_for(AttemptSettled, lambda settled: settled.verdict is Verdict.DEAD)
    row = app.row(upload)
    assert row is not None
    assert row["error_message"] == "no thing  [31m  red"
