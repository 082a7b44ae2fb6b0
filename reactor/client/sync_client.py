"""The API for code without an event loop: Django, Flask, scripts. Calls run in an event loop in a daemon thread.

    client = SyncReactorClient(dsn)
    with client.interpretation(source_id, config) as run:
        for page in pages:
            run.check()     # raises when a reactor or an operator has failed the run
            interpret(page)

Threads may share a client. A client may be created before a fork: each process opens its own connections.
"""

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from reactor.client.async_client import Id, ReactorClient
from reactor.client.blocking_calls import BlockingCalls
from reactor.client.run import begin_arguments
from reactor.client.sync_interpretation import SyncInterpretationBlock

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[ReactorClient, P], Awaitable[T]],
) -> "Callable[Concatenate[SyncReactorClient, P], T]":
    """Return a blocking method with the arguments, result, errors and docstring of an async method."""

    @wraps(method)
    def call(self: "SyncReactorClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        async def in_loop(client: ReactorClient) -> T:
            return await method(client, *args, **kwargs)

        return self._calls.call(in_loop)

    return call


class SyncReactorClient:
    """The blocking form of ReactorClient. Threads may share a client. The first call starts the event loop.

    Each method has the same arguments, result and errors as the method of ReactorClient with the same name.
    """

    def __init__(self, dsn: str, *, connections: int = 4, wait_s: float = 30.0) -> None:
        """Create a client without connecting.

        `dsn` is a libpq URL or key=value string. `connections` is the pool's maximum size, at least 1; while runs are
        active, one more connection sends their heartbeats. `wait_s` is how long a call may wait for a free connection,
        in seconds, more than 0. Raises InvalidArgument; ConfigInvalid under gevent or eventlet.
        """
        make_client = partial(ReactorClient, dsn, connections=connections, wait_s=wait_s)
        make_client()  # raises here, not at the first call
        self._calls = BlockingCalls(make_client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread; if runs are active, after the last run.

        A later call starts a new thread and opens new connections.
        """
        self._calls.close()

    reserve_upload = _blocking(ReactorClient.reserve_upload)
    """Reserve quota for an upload before the app stores the object; see ReactorClient.reserve_upload."""

    complete_upload = _blocking(ReactorClient.complete_upload)
    """Record that the app stored the object itself; see ReactorClient.complete_upload."""

    fail_upload = _blocking(ReactorClient.fail_upload)
    """Queue an upload that the app could not store; see ReactorClient.fail_upload."""

    usage = _blocking(ReactorClient.usage)
    """Return a user's plan, limits and current usage; see ReactorClient.usage."""

    set_plan = _blocking(ReactorClient.set_plan)
    """Put a user on a plan; see ReactorClient.set_plan."""

    recalculate_usage = _blocking(ReactorClient.recalculate_usage)
    """Recount a user's usage from the rows; see ReactorClient.recalculate_usage."""

    def interpretation(
        self,
        source_id: Id,
        config: Any = None,
        *,
        timeout_s: float = 600.0,
        heartbeat_timeout_s: float = 60.0,
        traceparent: str | None = None,
    ) -> SyncInterpretationBlock:
        """Return a context manager that runs an interpretation. See ReactorClient.interpretation for the arguments.

            with client.interpretation(source_id, config) as run: ...

        Any exception that leaves the block fails the run and propagates unchanged, also KeyboardInterrupt, SystemExit
        and the GeneratorExit of a generator that is closed. The client can't cancel this block, so the block must call
        `run.check()` regularly: `check` raises the reason when a reactor or an operator has failed the run. Without
        this call, leaving the block raises the reason.
        """
        return SyncInterpretationBlock(
            self._calls, begin_arguments(source_id, config, timeout_s, heartbeat_timeout_s, traceparent)
        )
