"""Settles batches of claimed uploads, with or without one that the app refuses, and measures the server's time."""

import random
import time
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg

from reactor.postgres import statements

BATCH = 500
SIZE_IF_REFUSED = 150
"""The size of parts that the reactor asks for after a refusal; see reactor/postgres/statement_parts.py."""

_IS_BAD: LiteralString = "new.file_name = 'bad' and new.storage_status <> 'pending'"


class Settlements:
    """Batches of 500 uploads, each of another user. The app refuses uploads whose file_name is 'bad'."""

    def __init__(self, conn: psycopg.Connection[Any], kind: str) -> None:
        """`kind`: how the app refuses: 'check', 'before', 'after' (row triggers), or 'one user', which is known."""
        self._conn = conn
        self._is_known = kind == "one user"
        self._choice = random.Random(1)
        conn.execute("update public.quota_plans set storage_limit_bytes = null")
        if kind == "check":
            conn.execute(
                "alter table public.sources add constraint rule check (not (file_name = 'bad'"
                " and storage_status <> 'pending'))"
            )
            return
        conn.execute(
            "create function public.app_rule() returns trigger language plpgsql as $$ begin if " + _IS_BAD + " then"
            " raise exception 'the books are closed'; end if; return new; end $$"
        )
        when: LiteralString = "before update" if kind == "before" else "after update"
        conn.execute("create trigger rule " + when + " on public.sources for each row execute function app_rule()")

    def measure(self, rounds: int) -> dict[int, list[float]]:
        """Settle batches without and with a refused upload alternately.

        Returns the CPU seconds of the server for each batch, by the number of refused uploads.
        """
        seconds: dict[int, list[float]] = {0: [], 1: []}
        for number in range(2 * rounds):
            refused = number % 2
            uploads, token = self._claimed(refused=refused)
            began = self._server_seconds()
            answers = self._settle(uploads, token, refused=refused)
            seconds[refused].append(self._server_seconds() - began)
            assert sorted(row[1] for row in answers) == ["refused"] * refused + ["settled"] * (BATCH - refused)
            self._conn.execute("delete from public.sources")
        return seconds

    def _server_seconds(self) -> float:
        """Return the CPU time of the server's process, or this process's clock if the server runs elsewhere."""
        process = Path(f"/proc/{self._conn.info.backend_pid}")
        try:
            if (process / "comm").read_text() == "postgres\n":
                return int((process / "schedstat").read_text().split()[0]) / 1e9
        except FileNotFoundError:
            pass
        return time.perf_counter()

    def _claimed(self, *, refused: int) -> tuple[list[UUID], UUID]:
        uploads = self._conn.execute(
            "with source as (insert into public.sources (user_id, content_hash, storage_status, byte_size, file_name)"
            " select gen_random_uuid(), gen_random_uuid()::text, 'pending', 10, 'good' from generate_series(1, %s)"
            " returning id, user_id)"
            " insert into public.upload_queue (source_id, user_id, bucket, object_path, byte_size)"
            " select id, user_id, 'bucket', 'path', 10 from source returning id, source_id",
            (BATCH,),
        ).fetchall()
        if refused:
            bad = uploads.pop(self._choice.randrange(BATCH))
            uploads.insert(BATCH - 1 if self._is_known else self._choice.randrange(BATCH), bad)
            self._conn.execute("update public.sources set file_name = 'bad' where id = %s", (bad[1],))
        token, ids = uuid4(), [row[0] for row in uploads]
        self._conn.execute("select reactor.claim_uploads(%s, %s, '5 min')", (ids, token))
        return ids, token

    def _settle(self, uploads: list[UUID], token: UUID, *, refused: int) -> list[Any]:
        nulls = [None] * BATCH
        size = SIZE_IF_REFUSED if refused and not self._is_known else BATCH
        trusted = BATCH - 1 if refused and self._is_known else BATCH
        arguments = (uploads, [token] * BATCH, ["stored"] * BATCH, [0.0] * BATCH, nulls, nulls, ["s3://a/b"] * BATCH)
        return self._conn.execute(statements.SETTLE_UPLOADS, (*arguments, size, trusted), binary=True).fetchall()
