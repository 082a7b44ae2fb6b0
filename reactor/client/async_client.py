"""The API as a service in Python calls it, under asyncio.

    async with ReactorClient(dsn) as client:
        reservation = await client.reserve_upload(user_id, content_hash, byte_size, mime_type, file_name)

Every call is one statement, and may be repeated: where the connection broke before the answer came, it is. Nothing here
blocks the caller's event loop. A call that has begun isn't cancelled (see reactor/postgres/connection.py).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, LiteralString, Self
from uuid import UUID

from opentelemetry.propagate import inject

from reactor.client.arguments import as_id, as_json, as_seconds, as_text, as_whole
from reactor.client.interpretation import Interpretation, interpreting
from reactor.postgres import statements
from reactor.postgres.connection import ConnectionPool
from reactor.postgres.results import Begun, PendingRetry, Reservation, Stored, Usage, accepted, structured

Id = UUID | str


class ReactorClient:
    """A few connections to the database that reactors work on. Opened by its first call; belongs to one event loop.

    Connect as a service: service_role, or the tables' owner. Every method raises DatabaseUnavailable when the database
    doesn't answer, InvalidArgument for an argument that it names, and what it says besides.
    """

    def __init__(self, dsn: str, *, connections: int = 4) -> None:
        """`dsn` is a libpq URL or key=value string; `connections` is the most that are made, at least 1."""
        self._dsn = dsn
        self._connections = as_whole("connections", connections, at_least=1)
        self._opening = asyncio.Lock()
        self._database: ConnectionPool | None = None

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. A later call opens them again."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    async def reserve_upload(
        self,
        user_id: Id,
        content_hash: str,
        byte_size: int,
        mime_type: str | None = None,
        file_name: str | None = None,
        *,
        source_type: str | None = None,
        source_agent_id: str | None = None,
        source_metadata: Mapping[str, Any] | None = None,
    ) -> Reservation:
        """Reserve the bytes of an upload, before it is stored.

        `content_hash` is the lower-case hex SHA-256 of the bytes; the same content again is the same source.
        Raises StorageQuotaExceeded.
        """
        answer = await self.ask(
            statements.RESERVE_UPLOAD,
            (
                as_id("user_id", user_id),
                as_text("content_hash", content_hash),
                as_whole("byte_size", byte_size, at_least=0),
                as_text("mime_type", mime_type),
                as_text("file_name", file_name),
                as_text("source_type", source_type),
                as_text("source_agent_id", source_agent_id),
                as_json("source_metadata", {} if source_metadata is None else source_metadata),
            ),
        )
        return structured(answer, Reservation)

    async def complete_upload(self, source_id: Id, storage_url: str) -> Stored:
        """Say that the app's own attempt worked: the reservation becomes usage. Twice is once. Raises NotFound."""
        arguments = (as_id("source_id", source_id), as_text("storage_url", storage_url))
        return structured(await self.ask(statements.COMPLETE_UPLOAD, arguments), Stored)

    async def fail_upload(
        self,
        source_id: Id,
        bucket: str,
        object_path: str,
        temp_file_path: str,
        error_message: str | None = None,
        *,
        spool: str = "default",
        traceparent: str | None = None,
        max_retries: int = 5,
        metadata: Mapping[str, Any] | None = None,
    ) -> PendingRetry:
        """Say that the app's own attempt failed: the reactor stores the spooled bytes. Twice is once.

        The trace is the one of the current OpenTelemetry span, unless `traceparent` names another.
        Raises NotFound, and StorageUploadFailed when it was given up already.
        """
        answer = await self.ask(
            statements.FAIL_UPLOAD,
            (
                as_id("source_id", source_id),
                as_text("bucket", bucket),
                as_text("object_path", object_path),
                as_text("temp_file_path", temp_file_path),
                as_text("error_message", error_message),
                as_text("spool", spool),
                as_text("traceparent", traceparent or _current_traceparent()),
                as_whole("max_retries", max_retries, at_least=1),
                as_json("metadata", {} if metadata is None else metadata),
            ),
        )
        return structured(answer, PendingRetry)

    async def usage(self, user_id: Id) -> Usage:
        """Return what a user may use and uses."""
        return structured(await self.ask(statements.GET_USAGE, (as_id("user_id", user_id),)), Usage)

    def interpretation(
        self,
        source_id: Id,
        config: Any = None,
        *,
        timeout_s: float = 600.0,
        heartbeat_timeout_s: float = 60.0,
        traceparent: str | None = None,
    ) -> AbstractAsyncContextManager[Interpretation]:
        """Interpret a source: `async with client.interpretation(source_id, config) as run:`.

        Begins the run and counts it; sends heartbeats while the block runs, at a third of `heartbeat_timeout_s`;
        completes it at the end, or fails it with what the block raised. When the run was taken away (it passed its
        deadline, or was failed by an operator) the block is cancelled, and InterpretationTimeout, or what else it
        was, is raised.

        Entering raises StoragePending, InterpretationInProgress, InterpretationQuotaExceeded, NotFound.
        """
        arguments = (
            as_id("source_id", source_id),
            as_json("config", {} if config is None else config),
            timedelta(seconds=as_seconds("timeout_s", timeout_s)),
            timedelta(seconds=as_seconds("heartbeat_timeout_s", heartbeat_timeout_s)),
            as_text("traceparent", traceparent or _current_traceparent()),
        )

        async def begin(run_id: UUID) -> Begun:
            return structured(await self.ask(statements.BEGIN_INTERPRETATION, (*arguments, run_id)), Begun)

        return interpreting(self, begin)

    async def ask(self, statement: LiteralString, arguments: Sequence[Any]) -> Mapping[str, Any]:
        """Call one SQL function and return what it answers. Raises what it refuses."""
        database = await self._opened()
        [(answer,)] = await database.call(statement, arguments)
        return accepted(answer)

    async def _opened(self) -> ConnectionPool:
        async with self._opening:
            if self._database is None:
                database = ConnectionPool(self._dsn, size=self._connections, named="the client's dsn")
                await database.open()
                self._database = database
            return self._database


def _current_traceparent() -> str | None:
    """Return the W3C trace context of the caller's current span; None outside of any."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")
