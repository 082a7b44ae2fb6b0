"""The block of ReactorClient.interpretation: begins a run, completes or fails it, and cancels the block of a lost run.

Invariant: after the block the run has ended. Exception: if the database doesn't answer, a reactor fails the run later.

The block holds no cancel scope and no task group, because another task may leave it than the one that entered it: a
generator that holds the block may be closed early. Only if the run is lost does the block cancel its task, as
asyncio.timeout does (reactor/README.md, decision 54).
"""

import asyncio
import inspect
import sys
from asyncio import CancelledError
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from time import monotonic
from types import FrameType, TracebackType
from typing import Any
from uuid import uuid4

from anyio import CancelScope

from reactor.client.connections import Connections
from reactor.client.heartbeats import RETRY_S
from reactor.client.run import CLOSE_TIMEOUT_S, Run, RunHandle, begin, fail_begun, note_loss, patience_s
from reactor.core.errors import ReactorError

_unfinished: set[asyncio.Task[None]] = set()
"""Ends of runs that are still tried after their block was left. An event loop keeps only weak references to tasks."""


class Interpretation(RunHandle):
    """A running interpretation, for its worker. `ReactorClient.interpretation` creates it."""

    def __init__(self, run: Run, connections: Connections) -> None:
        super().__init__(run)
        self._connections = connections

    async def fail(self, code: str, message: str | None = None) -> None:
        """Fail the run with an error code of the worker. Leaving the block then doesn't change the run.

        `code` consists of capitals, digits and `_`.
        """
        await self._run.fail_as(self._connections.ask, code, message)


class InterpretationBlock(AbstractAsyncContextManager[Interpretation, None]):
    """What `ReactorClient.interpretation` returns: an `async with` block that is one run."""

    def __init__(self, connections: Connections, arguments: Sequence[Any]) -> None:
        """`arguments` are those of `begin_arguments`."""
        self._connections = connections
        self._arguments = arguments
        self._run: Run | None = None
        """Set while the block is open."""

        self._task: asyncio.Task[Any] | None = None
        self._cancelled_before = 0
        """How often others had cancelled the task when the block cancelled it."""

        self._generators: list[FrameType] = []
        """The asynchronous generators that the task ran when the block was entered."""

        self._has_cancelled = False
        self._retry: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Interpretation:
        if self._task is not None:
            raise RuntimeError("an interpretation block is entered once: call client.interpretation() for each run")
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101  # psycopg needs asyncio
        self._generators = _open_generators(sys._getframe(1))  # noqa: SLF001  # the caller's frame
        run_id = uuid4()  # a call may repeat its statement: with the same id, only one run starts
        self._connections.run_begins()
        try:
            started = await begin(self._connections.ask, self._arguments, run_id)
        except BaseException as error:
            if isinstance(error, CancelledError):
                await _finish(fail_begun(self._connections.ask, run_id))
            await self._connections.run_ended()
            raise
        self._run = Run(started)
        self._connections.heartbeats().start(self._run.heartbeat(self._lose))
        return Interpretation(self._run, self._connections)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._run
        if run is None or not run.belongs_to_this_process:
            return
        self._run = None
        self._generators.clear()
        if self._retry is not None:
            self._retry.cancel()
        try:
            await self._end(run, error)
        finally:
            self._connections.heartbeats().stop(run.id)
            await self._connections.run_ended()

    async def _end(self, run: Run, error: BaseException | None) -> None:
        is_cancelled_by_us = self._has_cancelled and not self._is_cancelled_by_others()
        if run.lost is not None:
            if error is None or (is_cancelled_by_us and isinstance(error, CancelledError)):
                raise run.lost from error
            note_loss(error, run.lost)
        elif error is None:
            await _finish(run.complete(self._connections.ask))
        else:
            await _finish(run.fail_with(self._connections.ask, error), within_s=patience_s(error))

    def _is_cancelled_by_others(self) -> bool:
        """Withdraw the block's own cancellation; return whether others have cancelled the task since."""
        return self._task is not None and self._task.uncancel() > self._cancelled_before

    def _lose(self, reason: ReactorError) -> None:
        """Record that the run is lost, and cancel the block, unless the worker has ended the run."""
        if self._run is not None:  # otherwise the block is being left
            self._run.lose(reason)
            if self._run.lost is not None:
                self._cancel()

    def _cancel(self) -> None:
        """Cancel the task if it is in the block; while a generator that holds the block has yielded, try later."""
        assert self._task is not None  # noqa: S101  # the block was entered
        loop = asyncio.get_running_loop()
        if any(_has_yielded(loop, frame) for frame in self._generators):
            self._retry = loop.call_later(RETRY_S, self._cancel)
        else:
            # counted now: an asyncio.TaskGroup that failed in the block may have left a cancellation (gh-116720)
            self._cancelled_before = self._task.cancelling()
            self._has_cancelled = True
            self._task.cancel()


async def _finish(work: Coroutine[Any, Any, None], *, within_s: float | None = None) -> None:
    """Run `work` to its end, even if the task is cancelled meanwhile; then for at most 5 s more.

    After `within_s`, or these 5 s, `work` goes on in the background.
    """
    task = asyncio.get_running_loop().create_task(work)
    _unfinished.add(task)
    task.add_done_callback(_end_of_unfinished)
    try:
        await asyncio.wait([task], timeout=within_s)
    except CancelledError:
        give_up_at = monotonic() + CLOSE_TIMEOUT_S
        with CancelScope(shield=True):  # anyio cancels again at each step
            while not task.done() and monotonic() < give_up_at:
                try:
                    await asyncio.wait([task], timeout=give_up_at - monotonic())
                except CancelledError:
                    continue  # a second cancellation; the first one is raised below
        raise
    if task.done():
        task.result()


def _end_of_unfinished(task: asyncio.Task[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()  # read, because the block may have been left


def _open_generators(caller: FrameType | None) -> list[FrameType]:
    """Return the frames of the asynchronous generators that are running, from the caller outwards.

    A generator of contextlib's asynccontextmanager doesn't count: it has yielded while its block runs.
    """
    found = []
    while caller is not None:
        outer = caller.f_back
        if caller.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
            is_context_manager = outer is not None and outer.f_globals.get("__name__") == "contextlib"
            if not is_context_manager:
                found.append(caller)
        caller = outer
    return found


def _has_yielded(loop: asyncio.AbstractEventLoop, frame: FrameType) -> bool:
    """Return whether a generator waits for its consumer, so that its task runs the consumer's code.

    asyncio and uvloop keep the running generators in `_asyncgens`.
    """
    return any(each.ag_frame is frame and not each.ag_running for each in tuple(getattr(loop, "_asyncgens", ())))
