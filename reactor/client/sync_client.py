"""The API for code without an event loop: Django, Flask, scripts. Calls run in an event loop in a daemon thread.

    client = SyncReactorClient(dsn)
    with client.interpretation(source_id, config) as run:
        for page in pages:
            run.check()     # raises when a reactor or an operator has failed the run
            interpret(page)

Threads may share a client. A client may be created before a fork: each process opens its own connections.
"""

import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from functools import partial, wraps
from threading import Lock, Thread
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal
from attrs import frozen

from reactor.client.async_client import Id, ReactorClient
from reactor.client.interpretation import Interpretation

P = ParamSpec("P")
T = TypeVar("T")


@frozen
class _LoopThread:
    """An event loop in a thread of this process, and the client that uses the loop."""

    pid: int
    client: ReactorClient
    portal: BlockingPortal


class SyncInterpretation:
    """A running interpretation, for its worker. `SyncReactorClient.interpretation` creates it."""

    def __init__(self, run: Interpretation, portal: BlockingPortal) -> None:
        self.id, self.source_id = run.id, run.source_id
        self.traceparent = run.traceparent
        """The run's W3C trace context."""

        self._run = run
        self._portal = portal

    def check(self) -> None:
        """Raise the reason, such as InterpretationTimeout, if a reactor or an operator has failed the run."""
        self._run.check()

    def fail(self, code: str, message: str | None = None) -> None:
        """Fail the run with an error code of the worker. Leaving the block then doesn't change the run.

        `code` consists of capitals, digits and `_`.
        """
        self._portal.call(partial(self._run.fail, code, message))


def _blocking(
    method: Callable[Concatenate[ReactorClient, P], Awaitable[T]],
) -> "Callable[Concatenate[SyncReactorClient, P], T]":
    """Return a blocking method with the arguments, result, errors and docstring of an async method."""

    @wraps(method)
    def call(self: "SyncReactorClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        loop_thread = self._started_loop_thread()
        return loop_thread.portal.call(lambda: method(loop_thread.client, *args, **kwargs))

    return call


class SyncReactorClient:
    """The blocking form of ReactorClient. Threads may share a client. The first call starts the event loop.

    Each method has the same arguments, result and errors as the method of ReactorClient with the same name.
    """

    def __init__(self, dsn: str, *, connections: int = 4) -> None:
        """Create a client without connecting.

        `dsn` is a libpq URL or key=value string. `connections` is the pool's maximum size, at least 1.
        Raises InvalidArgument.
        """
        self._make_client = partial(ReactorClient, dsn, connections=connections)
        self._make_client()  # raises InvalidArgument here, not at the first call
        self._lock = Lock()
        self._loop_thread: _LoopThread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread. A later call starts a new thread and opens new connections."""
        with self._lock:
            loop_thread, self._loop_thread = self._loop_thread, None
        if loop_thread is not None and loop_thread.pid == os.getpid():
            loop_thread.portal.call(loop_thread.client.aclose)
            loop_thread.portal.call(loop_thread.portal.stop)

    reserve_upload = _blocking(ReactorClient.reserve_upload)
    complete_upload = _blocking(ReactorClient.complete_upload)
    fail_upload = _blocking(ReactorClient.fail_upload)
    usage = _blocking(ReactorClient.usage)

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
        """Return a context manager that runs an interpretation. See ReactorClient.interpretation for the arguments.

        The client can't cancel this block, so the block must call `run.check()` regularly: `check` raises the reason
        when a reactor or an operator has failed the run. Without this call, leaving the block raises the reason.
        """
        loop_thread = self._started_loop_thread()
        interpretation = loop_thread.client.interpretation(
            source_id, config, timeout_s=timeout_s, heartbeat_timeout_s=heartbeat_timeout_s, traceparent=traceparent
        )
        run: Interpretation | None = None
        try:
            with loop_thread.portal.wrap_async_context_manager(interpretation) as run:
                yield SyncInterpretation(run, loop_thread.portal)
        except CancelledError:
            # if `check` raises while the event loop still cancels the block, anyio reports only the cancellation
            if run is not None:
                run.check()
            raise

    def _started_loop_thread(self) -> _LoopThread:
        """Return the event loop thread of this process; start one if there is none."""
        with self._lock:
            if self._loop_thread is None or self._loop_thread.pid != os.getpid():
                started: Future[_LoopThread] = Future()
                # A daemon thread: a program that does not call close() must still exit.
                Thread(target=anyio.run, args=(self._run_loop, started), name="reactor-client", daemon=True).start()
                self._loop_thread = started.result()
            return self._loop_thread

    async def _run_loop(self, started: "Future[_LoopThread]") -> None:
        async with BlockingPortal() as portal:
            started.set_result(_LoopThread(os.getpid(), self._make_client(), portal))
            await portal.sleep_until_stopped()
