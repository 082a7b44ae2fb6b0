"""The API for services in Python under asyncio.

    async with ReactorClient(dsn) as client:
        reservation = await client.reserve_upload(user_id, content_hash, byte_size, mime_type, file_name)

Each call is one idempotent statement. The client repeats the statement if the connection breaks before the answer
arrives. No call blocks the event loop. A started call cannot be cancelled (see reactor/postgres/connection.py).
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, LiteralString, Self
from uuid import UUID

from opentelemetry.propagate import inject

from reactor.client.arguments import as_id, as_integer, as_json_text, as_seconds, as_text
from reactor.client.interpretation import Interpretation, interpreting
from reactor.postgres import statements
from reactor.postgres.connection import ConnectionPool
from reactor.postgres.results import PendingRetry, Reservation, StartedRun, StoredSource, Usage, accepted, structured

Id = UUID | str


class ReactorClient:
    """Calls the reactor's SQL functions over a small connection pool. Use each client in one event loop only.

    Connect as service_role, or as the tables' owner. The first call opens the pool.

    In addition to the errors in its docstring, each method raises DatabaseUnavailable when the database does not
    answer, and InvalidArgument for an invalid argument.
    """

    def __init__(self, dsn: str, *, connections: int = 4) -> None:
        """Create a client without connecting.

        `dsn` is a libpq URL or key=value string. `connections` is the pool's maximum size, at least 1.
        Raises InvalidArgument.
        """
        self._dsn = dsn
        self._connections = as_integer("connections", connections, at_least=1)
        self._opening = asyncio.Lock()
        self._pool: ConnectionPool | None = None

    async def __aenter__(self) -> Self:
        await self._opened_pool()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. A later call opens new connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

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
        """Reserve quota for an upload before the app stores the object; return the reserved source.

        `content_hash` is the lower-case hex SHA-256 of the bytes; `byte_size` is the number of bytes, at least 0.
        `source_metadata` is any JSON object. If the user already has a source with this content, the call returns that
        source with `deduplicated` set. The call then reserves quota only if that source's upload has failed.

        Raises StorageQuotaExceeded.
        """
        arguments = (
            as_id("user_id", user_id),
            as_text("content_hash", content_hash),
            as_integer("byte_size", byte_size, at_least=0),
            as_text("mime_type", mime_type),
            as_text("file_name", file_name),
            as_text("source_type", source_type),
            as_text("source_agent_id", source_agent_id),
            as_json_text("source_metadata", {} if source_metadata is None else source_metadata),
        )
        return structured(await self.ask(statements.RESERVE_UPLOAD, arguments), Reservation)

    async def complete_upload(self, source_id: Id, storage_url: str) -> StoredSource:
        """Record that the app stored the object itself; return the stored source. Idempotent.

        The reserved bytes become used bytes. `storage_url` is the URL of the object.

        Raises NotFound.
        """
        arguments = (as_id("source_id", source_id), as_text("storage_url", storage_url))
        return structured(await self.ask(statements.COMPLETE_UPLOAD, arguments), StoredSource)

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
        """Record that the app could not store the object, and queue the upload for the reactor. Idempotent.

        The reactor stores the file `temp_file_path` of `spool` as `object_path` in `bucket`, in at most `max_retries`
        attempts (1 to 100). `metadata` is any JSON object. `traceparent` is a W3C trace context; None means the trace
        context of the current OpenTelemetry span.

        Raises NotFound; StorageUploadFailed when the upload is already dead or cancelled; StorageQuotaExceeded when the
        reservation was released and no longer fits.
        """
        arguments = (
            as_id("source_id", source_id),
            as_text("bucket", bucket),
            as_text("object_path", object_path),
            as_text("temp_file_path", temp_file_path),
            as_text("error_message", error_message),
            as_text("spool", spool),
            as_text("traceparent", traceparent or _current_traceparent()),
            as_integer("max_retries", max_retries, at_least=1),
            as_json_text("metadata", {} if metadata is None else metadata),
        )
        return structured(await self.ask(statements.FAIL_UPLOAD, arguments), PendingRetry)

    async def usage(self, user_id: Id) -> Usage:
        """Return a user's plan, limits and current usage. A user without rows has the plan `free`."""
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
        """Return a context manager that runs an interpretation of a stored source.

            async with client.interpretation(source_id, config) as run: ...

        Entering starts the run and counts it against the user's monthly quota. During the block the client sends a
        heartbeat every `heartbeat_timeout_s` / 3. Leaving the block completes the run, or fails the run if the block
        raised. If a reactor or an operator fails the run during the block, the client cancels the block and raises the
        reason, for example InterpretationTimeout.

        `config` is any JSON value. The run may take up to `timeout_s`. Both times are in seconds, more than 0 and at
        most 30 days. `traceparent` is a W3C trace context; None means the trace context of the current OpenTelemetry
        span.

        Entering raises NotFound, StoragePending, StorageUploadFailed, InterpretationInProgress or
        InterpretationQuotaExceeded.
        """
        arguments = (
            as_id("source_id", source_id),
            as_json_text("config", {} if config is None else config),
            timedelta(seconds=as_seconds("timeout_s", timeout_s)),
            timedelta(seconds=as_seconds("heartbeat_timeout_s", heartbeat_timeout_s)),
            as_text("traceparent", traceparent or _current_traceparent()),
        )

        async def begin(run_id: UUID) -> StartedRun:
            return structured(await self.ask(statements.BEGIN_INTERPRETATION, (*arguments, run_id)), StartedRun)

        return interpreting(self.ask, begin)

    async def ask(self, statement: LiteralString, arguments: Sequence[Any]) -> Mapping[str, Any]:
        """Call one SQL function and return its answer. A refusal raises the exception of its code."""
        pool = await self._opened_pool()
        [(answer,)] = await pool.call(statement, arguments)
        return accepted(answer)

    async def _opened_pool(self) -> ConnectionPool:
        async with self._opening:
            if self._pool is None:
                pool = ConnectionPool(self._dsn, size=self._connections, named="the client's dsn", replaces_text=False)
                await pool.open()
                self._pool = pool
            return self._pool


def _current_traceparent() -> str | None:
    """Return the W3C trace context of the current span; None outside any span."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")
