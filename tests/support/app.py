"""The app beside the reactor: it spools files, queues uploads, starts runs, and checks the results."""

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from anyio import Event, create_task_group, fail_after
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
class Owed:
    """One upload that failed in the app and is queued for the reactor."""

    id: UUID
    source: UUID
    user: UUID
    key: str
    content: bytes


class AppSide:
    """An app's spool, store and database connection."""

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

    # actions of the app

    def owe(
        self,
        count: int = 1,
        *,
        content: bytes | None = None,
        user: UUID | None = None,
        spooled: bool = True,
        **columns: Any,
    ) -> list[Owed]:
        """Spool `count` files and queue their uploads in one transaction. `columns` set columns of upload_queue."""
        owed = [self._owed(user or uuid4(), content) for _ in range(count)]
        for upload in owed if spooled else ():
            (self.spool / upload.key).write_bytes(upload.content)
        self.queue(owed, **columns)
        return owed

    def _owed(self, user: UUID, content: bytes | None) -> Owed:
        if content is None:
            content = secrets.token_bytes(1_000)
        return Owed(id=uuid4(), source=uuid4(), user=user, key=secrets.token_hex(8), content=content)

    def queue(self, owed: Sequence[Owed], **columns: Any) -> None:
        """Insert pending sources and queued uploads, in two statements."""
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
            for upload in owed
        ]
        sources = [
            {
                "id": upload.source,
                "user_id": upload.user,
                "content_hash": secrets.token_hex(32),  # not the content's: tests may queue equal files for one user
                "storage_status": "pending",
                "byte_size": len(upload.content),
            }
            for upload in owed
        ]
        with self.conn.transaction():
            self._insert("public.sources", sources)
            self._insert("public.upload_queue", rows)

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        names = list(rows[0])
        placeholders = "(" + ", ".join(["%s"] * len(names)) + ")"
        statement = f"insert into {table} ({', '.join(names)}) values {', '.join([placeholders] * len(rows))}"
        self.conn.execute(statement.encode(), [row[name] for row in rows for name in names])

    def begin_run(self, **columns: Any) -> UUID:
        """Insert a running interpretation with a new source; return the run. `columns` set columns of the run."""
        run, source, user = uuid4(), uuid4(), uuid4()
        content_hash = secrets.token_hex(32)
        self._insert("public.sources", [{"id": source, "user_id": user, "content_hash": content_hash}])
        row = {"id": run, "user_id": user, "source_id": source, "status": "running"} | columns
        self._insert("public.interpretation_runs", [row])
        return run

    # what the app observes

    def all(self, statement: LiteralString, *parameters: Any) -> list[Row]:
        """Return all rows of a statement."""
        return self.conn.execute(statement, parameters).fetchall()

    def one(self, statement: LiteralString, *parameters: Any) -> Any:
        """Return the single value of a statement's single row."""
        [row] = self.all(statement, *parameters)
        [value] = row.values()
        return value

    def row(self, upload: Owed) -> Row | None:
        """Return an upload's row; None if it has left the queue."""
        rows = self.all("select * from public.upload_queue where id = %s", upload.id)
        return rows[0] if rows else None

    def source(self, upload: Owed) -> Row:
        [row] = self.all("select * from public.sources where id = %s", upload.source)
        return row

    def usage(self, upload: Owed) -> tuple[int, int]:
        """Return the used and the reserved bytes of the upload's user."""
        [row] = self.all("select * from public.storage_usage where user_id = %s", upload.user)
        return row["total_bytes"], row["reserved_bytes"]

    def run(self, run: UUID) -> Row:
        [row] = self.all("select * from public.interpretation_runs where id = %s", run)
        return row

    def stored_at(self, upload: Owed) -> Path:
        return self.store / BUCKET / upload.key

    def is_spooled(self, upload: Owed) -> bool:
        return (self.spool / upload.key).exists()

    def assert_stored(self, upload: Owed) -> None:
        """Assert that an upload is stored, its source uploaded, and its row and spooled file deleted."""
        assert self.stored_at(upload).read_bytes() == upload.content
        assert self.row(upload) is None
        source = self.source(upload)
        assert source["storage_status"] == "uploaded"
        assert source["storage_url"] == self.stored_at(upload).as_uri()
        assert not self.is_spooled(upload)

    def assert_usage_matches_rows(self) -> None:
        """Assert that every user's usage equals the sum of their sources."""
        assert wrong_usage(self.conn) == []

    # the reactor

    @asynccontextmanager
    async def reacting(
        self, recorder: Recorder, *, store: ObjectStore | None = None, **settings: Any
    ) -> AsyncIterator[Reactor]:
        """Run a reactor in this process. Enters when it listens and has reconciled, and stops it on leaving."""
        reactor = Reactor(evolve(self.settings, **settings), store=store, listener=recorder)
        async with create_task_group() as tasks:
            await self.start(reactor, recorder, tasks)
            yield reactor
            reactor.stop()

    async def start(self, reactor: Reactor, recorder: Recorder, tasks: TaskGroup) -> None:
        """Start a reactor. Returns when it listens, and no reconciliation is running or requested."""
        reconciled = Event()
        requested = False

        def check_pass() -> None:
            assert reactor._engine is not None
            # a pass that ends without a further request started after the request below
            if requested and not reactor._engine.reconcile._whole_pass:
                reconciled.set()

        tasks.start_soon(partial(reactor.run, ready=check_pass))
        await recorder.wait_for(Listening)
        assert reactor._engine is not None
        requested = True
        reactor._engine.reconcile.request()
        with fail_after(PATIENCE_S):
            await reconciled.wait()
        recorder.forget()

    async def drain(
        self, recorder: Recorder | None = None, *, store: ObjectStore | None = None, **settings: Any
    ) -> None:
        """Run one complete reconciliation."""
        await Reactor(evolve(self.settings, **settings), store=store, listener=recorder).drain()

    def without_triggers(self) -> None:
        """Disable the triggers that notify of uploads and runs."""
        for table in ("upload_queue", "interpretation_runs"):
            for trigger in ("inserted", "updated"):
                self.conn.execute(f"alter table public.{table} disable trigger reactor_notify_{trigger}".encode())


@contextmanager
def app_side(url: str, home: Path) -> Iterator[AppSide]:
    """Open an app's connection to a migrated database."""
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as conn:
        yield AppSide(url, home, conn)
