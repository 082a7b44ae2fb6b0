"""The app in front of a reactor: it spools files, queues uploads, begins runs and reads the resulting rows."""

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from anyio import create_task_group, fail_after
from anyio.abc import TaskGroup
from attrs import evolve, frozen
from psycopg.rows import dict_row

from reactor.app import Reactor
from reactor.core.events import Listening
from reactor.core.settings import Settings
from reactor.storage.stores.base import ObjectStore
from support.recorder import PATIENCE_S, Recorder
from support.usage_check import wrong_usage

BUCKET = "files"
Row = dict[str, Any]


@frozen(kw_only=True)
class QueuedUpload:
    """An upload that the app queued after its own attempt had failed."""

    id: UUID
    source: UUID
    user: UUID
    key: str
    content: bytes


class App:
    """An app with its spool, its store and a connection to the database."""

    def __init__(self, url: str, home: Path, conn: psycopg.Connection[Row]) -> None:
        self.url = url
        self.conn = conn
        self.spool = home / "spool"
        self.store = home / "store"
        for folder in (self.spool, self.store):
            folder.mkdir(exist_ok=True)
        self.settings = Settings(
            database_url=url,
            store_url=self.store.as_uri(),
            spools={"default": self.spool},
            retry_base_s=0.1,
            retry_max_s=1.0,
            retry_jitter=0.0,
            lease_s=5.0,
            shutdown_grace_s=5.0,
            http_port=0,
        )

    # writing

    def queue_uploads(
        self,
        count: int = 1,
        *,
        content: bytes | None = None,
        user: UUID | None = None,
        spooled: bool = True,
        **columns: Any,
    ) -> list[QueuedUpload]:
        """Spool files and queue their uploads in one transaction; `columns` override columns of upload_queue."""
        uploads = [self._new_upload(user or uuid4(), content) for _ in range(count)]
        for upload in uploads if spooled else ():
            (self.spool / upload.key).write_bytes(upload.content)
        self.insert_uploads(uploads, **columns)
        return uploads

    def _new_upload(self, user: UUID, content: bytes | None) -> QueuedUpload:
        if content is None:
            content = secrets.token_bytes(1_000)
        return QueuedUpload(id=uuid4(), source=uuid4(), user=user, key=secrets.token_hex(8), content=content)

    def insert_uploads(self, uploads: Sequence[QueuedUpload], **columns: Any) -> None:
        """Insert pending sources with one statement and failed uploads with another, in one transaction."""
        rows = [
            {
                "id": upload.id,
                "source_id": upload.source,
                "user_id": upload.user,
                "bucket": BUCKET,
                "object_path": upload.key,
                "content_hash": sha256(upload.content).hexdigest(),
                "byte_size": len(upload.content),
                "temp_file_path": upload.key,
            }
            | columns
            for upload in uploads
        ]
        sources = [
            {
                "id": upload.source,
                "user_id": upload.user,
                "content_hash": secrets.token_hex(32),  # random, so that one user can have two equal files
                "storage_status": "pending",
                "byte_size": len(upload.content),
            }
            for upload in uploads
        ]
        with self.conn.transaction():
            self._insert("public.sources", sources)
            self._insert("public.upload_queue", rows)

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        names = list(rows[0])
        one = "(" + ", ".join(["%s"] * len(names)) + ")"
        statement = f"insert into {table} ({', '.join(names)}) values {', '.join([one] * len(rows))}"
        self.conn.execute(statement.encode(), [row[name] for row in rows for name in names])

    def begin_run(self, **columns: Any) -> UUID:
        """Insert a running interpretation of a new source; return the run's id."""
        run, source, user = uuid4(), uuid4(), uuid4()
        content_hash = secrets.token_hex(32)
        self._insert("public.sources", [{"id": source, "user_id": user, "content_hash": content_hash}])
        row = {"id": run, "user_id": user, "source_id": source, "status": "running"} | columns
        self._insert("public.interpretation_runs", [row])
        return run

    # reading

    def all(self, statement: LiteralString, *parameters: Any) -> list[Row]:
        return self.conn.execute(statement, parameters).fetchall()

    def one(self, statement: LiteralString, *parameters: Any) -> Any:
        """Return the only value of the only row."""
        [row] = self.all(statement, *parameters)
        [value] = row.values()
        return value

    def row(self, upload: QueuedUpload) -> Row | None:
        """Return an upload's row; None if it was deleted."""
        rows = self.all("select * from public.upload_queue where id = %s", upload.id)
        return rows[0] if rows else None

    def source(self, upload: QueuedUpload) -> Row:
        [row] = self.all("select * from public.sources where id = %s", upload.source)
        return row

    def usage(self, upload: QueuedUpload) -> tuple[int, int]:
        """Return the used and the reserved bytes of the upload's user."""
        [row] = self.all("select * from public.storage_usage where user_id = %s", upload.user)
        return row["total_bytes"], row["reserved_bytes"]

    def run(self, run: UUID) -> Row:
        [row] = self.all("select * from public.interpretation_runs where id = %s", run)
        return row

    def stored_path(self, upload: QueuedUpload) -> Path:
        return self.store / BUCKET / upload.key

    def is_spooled(self, upload: QueuedUpload) -> bool:
        return (self.spool / upload.key).exists()

    def assert_stored(self, upload: QueuedUpload) -> None:
        """Assert that the object and the source of an upload are right, and that its row and spooled file are gone."""
        assert self.stored_path(upload).read_bytes() == upload.content
        assert self.row(upload) is None
        source = self.source(upload)
        assert source["storage_status"] == "uploaded"
        assert source["storage_url"] == self.stored_path(upload).as_uri()
        assert not self.is_spooled(upload)

    def assert_usage_matches_rows(self) -> None:
        """Assert that each user's storage_usage equals the sums over their sources and runs."""
        assert wrong_usage(self.conn) == []

    # the reactor

    @asynccontextmanager
    async def running_reactor(
        self, recorder: Recorder, *, store: ObjectStore | None = None, **settings: Any
    ) -> AsyncIterator[Reactor]:
        """Run a reactor in this process; yield it when it listens and has reconciled. Stop it at the block's end."""
        reactor = Reactor(evolve(self.settings, **settings), store=store, listener=recorder)
        async with create_task_group() as tasks:
            await self.start(reactor, recorder, tasks)
            yield reactor
            reactor.stop()

    async def start(self, reactor: Reactor, recorder: Recorder, tasks: TaskGroup) -> None:
        """Start a reactor; return when it listens and has then completed a reconciliation."""
        tasks.start_soon(reactor.run)
        await recorder.wait_for(Listening)
        with fail_after(PATIENCE_S):
            await reactor.reconcile()
        recorder.skip_recorded()

    async def drain(
        self, recorder: Recorder | None = None, *, store: ObjectStore | None = None, **settings: Any
    ) -> None:
        """Run one reconciliation to completion, as `reactor reconcile` does."""
        await Reactor(evolve(self.settings, **settings), store=store, listener=recorder).drain()

    def disable_triggers(self) -> None:
        """Disable the triggers that send notifications about uploads and runs."""
        for table in ("upload_queue", "interpretation_runs"):
            for trigger in ("inserted", "updated"):
                self.conn.execute(f"alter table public.{table} disable trigger reactor_notify_{trigger}".encode())


@contextmanager
def open_app(url: str, home: Path) -> Iterator[App]:
    """Connect an app to a migrated database. The app makes its spool and its store in the folder `home`."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as conn:
        yield App(url, home, conn)
