"""The same API for code without an event loop: Django, Flask, scripts. One loop in a thread of its own does the work.

    client = SyncReactorClient(dsn)
    with client.interpretation(source_id, config) as run:
        for page in pages:
            run.check()     # raises when the run was taken away
            interpret(page)

May be shared by threads, and be made before a server forks: each process opens connections of its own.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import anyio
from anyio.from_thread import BlockingPortal
from attrs import frozen

from reactor.client.async_client import Id, ReactorClient
from reactor.client.interpretation import Interpretation
from reactor.postgres.results import PendingRetry, Reservation, Stored, Usage

T = TypeVar("T")


@frozen
class _Serving:
    """A client, and the loop in which it lives."""

    pid: int
    client: ReactorClient
    portal: BlockingPortal


class SyncInterpretation:
    """A running interpretation, as a worker sees it that can't be cancelled: it asks, with `check`."""

    def __init__(self, run: Interpretation, portal: BlockingPortal) -> None:
        self._run = run
        self._portal = portal

    @property
    def id(self) -> UUID:
        return self._run.id

    @property
    def source_id(self) -> UUID:
        return self._run.source_id

    @property
    def traceparent(self) -> str:
        """W3C trace context of the run."""
        return self._run.traceparent

    def check(self) -> None:
        """Raise InterpretationTimeout, or why else the run is no longer ours; costs nothing while it is."""
        self._run.check()

    def fail(self, code: str, message: str | None = None) -> None:
        """Fail the run with a code of the worker's own (capitals, digits, _). Leaving the block then ends nothing."""
        self._portal.call(partial(self._run.fail, code, message))


class SyncReactorClient:
    """As ReactorClient, for callers that wait. Each method does and raises what its namesake there does."""

    def __init__(self, dsn: str, *, connections: int = 4) -> None:
        self._make = partial(ReactorClient, dsn, connections=connections)
        self._make()  # wrong arguments are told here, not at the first call
        self._lock = Lock()
        self._serving: _Serving | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. A later call starts anew."""
        with self._lock:
            serving, self._serving = self._serving, None
        if serving is not None and serving.pid == os.getpid():
            serving.portal.call(serving.client.aclose)
            serving.portal.call(serving.portal.stop)

    def reserve_upload(
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
        """Reserve the bytes of an upload, before it is stored."""
        return self._wait(
            lambda client: client.reserve_upload(
                user_id,
                content_hash,
                byte_size,
                mime_type,
                file_name,
                source_type=source_type,
                source_agent_id=source_agent_id,
                source_metadata=source_metadata,
            )
        )

    def complete_upload(self, source_id: Id, storage_url: str) -> Stored:
        """Say that the app's own attempt worked."""
        return self._wait(lambda client: client.complete_upload(source_id, storage_url))

    def fail_upload(
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
        """Say that the app's own attempt failed: the reactor stores the spooled bytes."""
        return self._wait(
            lambda client: client.fail_upload(
                source_id,
                bucket,
                object_path,
                temp_file_path,
                error_message,
                spool=spool,
                traceparent=traceparent,
                max_retries=max_retries,
                metadata=metadata,
            )
        )

    def usage(self, user_id: Id) -> Usage:
        """Return what a user may use and uses."""
        return self._wait(lambda client: client.usage(user_id))

    @contextmanager
    def interpretation(
        self,
        source_id: Id,
        config: Any = None,
        *,
        timeout_s: float = 600.0,
        heartbeat_timeout_s: float = 60.0,
        traceparent: str | None = None,
    ) -> Iterator[SyncInterpretation]:
        """Interpret a source. The block can't be cancelled: it calls `run.check()` now and then.

        When the run was taken away, that raises why; at the latest, leaving the block does.
        """
        serving = self._served()
        interpretation = serving.client.interpretation(
            source_id,
            config,
            timeout_s=timeout_s,
            heartbeat_timeout_s=heartbeat_timeout_s,
            traceparent=traceparent,
        )
        run: Interpretation | None = None
        try:
            with serving.portal.wrap_async_context_manager(interpretation) as run:
                yield SyncInterpretation(run, serving.portal)
        except CancelledError:
            # `check` told of a loss before the loop had ended the block itself: of both at once, anyio says only that
            if run is not None:
                run.check()
            raise

    def _wait(self, call: Callable[[ReactorClient], Awaitable[T]]) -> T:
        serving = self._served()
        return serving.portal.call(call, serving.client)

    def _served(self) -> _Serving:
        """Return this process's client, started by whoever comes first."""
        with self._lock:
            if self._serving is None or self._serving.pid != os.getpid():
                started: Future[_Serving] = Future()
                # a daemon: who forgets to close must not hang at exit
                Thread(target=anyio.run, args=(self._serve, started), name="reactor-client", daemon=True).start()
                self._serving = started.result()
            return self._serving

    async def _serve(self, started: "Future[_Serving]") -> None:
        async with BlockingPortal() as portal:
            started.set_result(_Serving(os.getpid(), self._make(), portal))
            await portal.sleep_until_stopped()
