"""Rows that tests of the schema write and read with plain SQL, and a log of the notifications that they cause."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import namedtuple_row

from reactor.postgres import statements
from reactor.postgres.notification import Payload, decode

TRACEPARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
_PATIENCE_S = 15.0


class Rows:
    """An autocommit connection with short methods for the statements of schema tests."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn

    def all(self, query: LiteralString | sql.Composed, parameters: Sequence[Any] = ()) -> list[Any]:
        return self.conn.execute(query, parameters).fetchall()

    def one(self, query: LiteralString | sql.Composed, parameters: Sequence[Any] = ()) -> Any:
        """Return the only row of a query's result."""
        (row,) = self.all(query, parameters)
        return row

    def run(self, query: LiteralString | sql.Composed, parameters: Sequence[Any] = ()) -> int:
        """Run a statement; return the number of rows that it affected."""
        return self.conn.execute(query, parameters).rowcount

    def at(self, seconds_from_now: float) -> datetime:
        """Return a time by the database's clock."""
        row = self.one("select clock_timestamp() + %s as at", (timedelta(seconds=seconds_from_now),))
        moment: datetime = row.at
        return moment

    def insert(self, table: str, **columns: Any) -> UUID:
        """Insert one row with these columns and return its id."""
        row = self.one(
            sql.SQL("insert into {} ({}) values ({}) returning id").format(
                sql.Identifier("public", table),
                sql.SQL(", ").join(map(sql.Identifier, columns)),
                sql.SQL(", ").join(sql.Placeholder() * len(columns)),
            ),
            list(columns.values()),
        )
        made: UUID = row.id
        return made

    def source(self, user: UUID, *, status: str = "pending", size: int | None = 10, **columns: Any) -> UUID:
        values = {"user_id": user, "content_hash": uuid4().hex, "storage_status": status, "byte_size": size}
        return self.insert("sources", **values | columns)

    def upload(self, user: UUID | None = None, *, source: UUID | None = None, **columns: Any) -> UUID:
        """Queue an upload. By default the upload has been due for one second, and its source is new and pending."""
        user = user or uuid4()
        size = columns.pop("size", 10)
        values = {
            "user_id": user,
            "source_id": source or self.source(user, size=size),
            "bucket": "bucket",
            "object_path": "user/file",
            "byte_size": size,
            "next_retry_at": self.at(-1),
            "traceparent": TRACEPARENT,
        }
        return self.insert("upload_queue", **values | columns)

    def uploads(self, count: int, user: UUID | None = None) -> list[UUID]:
        """Queue many due uploads of one source with one statement."""
        user = user or uuid4()
        source = self.source(user)
        made = self.all(
            "insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size)"
            " select %s, %s, 'bucket', 'user/' || n, 1 from generate_series(1, %s) as n returning id",
            (source, user, count),
        )
        return [row.id for row in made]

    def start_run(self, user: UUID | None = None, *, source: UUID | None = None, **columns: Any) -> UUID:
        """Insert a run. Its default status is running."""
        user = user or uuid4()
        values = {"user_id": user, "source_id": source or self.source(user), "status": "running"}
        return self.insert("interpretation_runs", **values | columns)

    def lift_quotas(self) -> None:
        """Remove the limits of all plans."""
        self.run("update public.quota_plans set storage_limit_bytes = null, interpretation_limit_month = null")

    def upload_row(self, upload: UUID) -> Any:
        return self.one("select * from public.upload_queue where id = %s", (upload,))

    def source_row(self, source: UUID) -> Any:
        return self.one("select * from public.sources where id = %s", (source,))

    def run_row(self, run: UUID) -> Any:
        return self.one("select * from public.interpretation_runs where id = %s", (run,))

    def usage(self, user: UUID) -> tuple[int, int, int]:
        """Return the user's total bytes, reserved bytes and number of stored sources."""
        row = self.one(
            "select total_bytes, reserved_bytes, total_sources from public.storage_usage where user_id = %s", (user,)
        )
        return row.total_bytes, row.reserved_bytes, row.total_sources

    def claim(self, ids: Sequence[UUID], token: UUID | None = None, *, lease_s: float = 30) -> dict[UUID, Any]:
        """Claim as the reactor does; return the rows by id."""
        arguments = (list(ids), token or uuid4(), timedelta(seconds=lease_s))
        answered = self.all(statements.CLAIM_UPLOADS, arguments)
        assert len({row.id for row in answered}) == len(answered)
        return {row.id: row for row in answered}

    def settle(
        self,
        attempts: Sequence[tuple[UUID, UUID, str]],
        *,
        delay_s: float = 30,
        code: str | None = None,
        message: str | None = None,
        url: str | None = None,
    ) -> dict[UUID, float | None]:
        """Settle a batch of (upload, token, verdict) as the reactor does.

        Returns the next due time of each settled upload by id; None if the upload isn't due again.
        """
        answers = self.settlement(attempts, delay_s=delay_s, code=code, message=message, url=url)
        return {row.id: row.due_at for row in answers.values() if row.state == "settled"}

    def settlement(
        self,
        attempts: Sequence[tuple[UUID, UUID, str]],
        *,
        delay_s: float = 30,
        code: str | None = None,
        message: str | None = None,
        url: str | None = None,
        size: int = 500,
        trusted: int | None = None,
    ) -> dict[UUID, Any]:
        """Settle a batch of (upload, token, verdict); return the answer for each upload by id."""
        count = len(attempts)
        ids, tokens, verdicts = (list(column) for column in zip(*attempts, strict=True))
        outcomes = (verdicts, [delay_s] * count, [code] * count, [message] * count, [url] * count)
        arguments = (ids, tokens, *outcomes, size, count if trusted is None else trusted)
        answers = self.all(statements.SETTLE_UPLOADS, arguments)
        assert len({row.id for row in answers}) == len(answers)
        return {row.id: row for row in answers}

    def confirm(self, settled: Sequence[tuple[UUID, UUID, str]]) -> set[UUID]:
        """Return the uploads among these (upload, source, URL) that have left the queue as stored."""
        ids, sources, urls = (list(column) for column in zip(*settled, strict=True))
        return {row[0] for row in self.all(statements.CONFIRM_STORED, (ids, sources, urls))}

    def extend(self, ids: Sequence[UUID], tokens: Sequence[UUID], *, lease_s: float = 30) -> set[UUID]:
        """Return the ids of the uploads whose leases were extended."""
        return {i for i, is_extended in self.extension(ids, tokens, lease_s=lease_s).items() if is_extended}

    def extension(self, ids: Sequence[UUID], tokens: Sequence[UUID], *, lease_s: float = 30) -> dict[UUID, bool]:
        """Extend leases; return for each upload that is still claimed whether its lease was extended."""
        arguments = (list(ids), list(tokens), timedelta(seconds=lease_s))
        return {row.id: row.extended for row in self.all(statements.EXTEND_LEASES, arguments)}

    def rescue(self, ids: Sequence[UUID] | None = None, limit: int = 1000) -> dict[UUID, str]:
        arguments = (None if ids is None else list(ids), limit)
        return {row.id: row.verdict for row in self.all(statements.RESCUE_UPLOADS, arguments)}

    def expire(self, ids: Sequence[UUID], *, heartbeat_timeout_s: float = 60) -> dict[UUID, Any]:
        arguments = (list(ids), timedelta(seconds=heartbeat_timeout_s))
        return {row.id: row for row in self.all(statements.EXPIRE_RUNS, arguments)}

    def wait_for_lock(self, conn: psycopg.Connection[Any]) -> None:
        """Wait until `conn` waits for a lock."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self.one(
            "select exists (select from pg_locks where pid = %s and not granted) as waits", (conn.info.backend_pid,)
        ).waits:
            assert time.monotonic() < deadline, "the connection doesn't wait for a lock"


@contextmanager
def rows_of(url: str) -> Iterator[Rows]:
    """Open a connection to this database."""
    with psycopg.connect(url, autocommit=True, row_factory=namedtuple_row) as conn:
        yield Rows(conn)


class NotificationLog:
    """A connection that listens to both channels and detects when all notifications have arrived."""

    def __init__(self, conn: psycopg.Connection[Any], url: str) -> None:
        self._conn = conn
        self._url = url
        for channel in ("reactor_uploads", "reactor_runs", "test_is_all"):
            conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def payloads(self, channel: str) -> list[str]:
        """Return this channel's payloads since the last call, and drop the payloads of the other channel.

        Notifications arrive in the order of their commits, so a marker sent now arrives after all of them.
        """
        with psycopg.connect(self._url, autocommit=True) as conn:
            conn.execute("select pg_notify('test_is_all', '')")
        received: list[str] = []
        for notification in self._conn.notifies(timeout=_PATIENCE_S):
            if notification.channel == "test_is_all":
                return received
            if notification.channel == channel:
                received.append(notification.payload)
        raise AssertionError("the marker notification did not arrive")

    def uploads(self) -> list[Payload]:
        return [decode(text) for text in self.payloads("reactor_uploads")]

    def runs(self) -> list[Payload]:
        return [decode(text) for text in self.payloads("reactor_runs")]


@contextmanager
def notification_log(url: str) -> Iterator[NotificationLog]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield NotificationLog(conn, url)
