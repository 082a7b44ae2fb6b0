"""The block of SyncReactorClient.interpretation: begins a run, and completes or fails it however the block is left.

Only the calls run in the loop thread, never the block: what the block raises can't end the loop or another run.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Any
from uuid import UUID, uuid4

from reactor.client.async_client import ReactorClient, connections_of
from reactor.client.blocking_calls import BlockingCalls
from reactor.client.run import CLOSE_TIMEOUT_S, Run, RunHandle, begin, fail_begun, note_loss, patience_s
from reactor.core.errors import ReactorError
from reactor.postgres.results import StartedRun


class SyncInterpretation(RunHandle):
    """A running interpretation, for its worker. `SyncReactorClient.interpretation` creates it."""

    def __init__(self, run: Run, calls: BlockingCalls) -> None:
        super().__init__(run)
        self._calls = calls

    def fail(self, code: str, message: str | None = None) -> None:
        """Fail the run with an error code of the worker. Leaving the block then doesn't change the run.

        `code` consists of capitals, digits and `_`.
        """
        self._calls.call(lambda client: self._run.fail_as(connections_of(client).ask, code, message))


class SyncInterpretationBlock(AbstractContextManager[SyncInterpretation, None]):
    """What `SyncReactorClient.interpretation` returns: a `with` block that is one run."""

    def __init__(self, calls: BlockingCalls, arguments: Sequence[Any]) -> None:
        self._calls = calls
        self._arguments = arguments
        self._run: Run | None = None
        self._was_entered = False
        self._beginning: asyncio.Task[Any] | None = None

    def __enter__(self) -> SyncInterpretation:
        if self._was_entered:
            raise RuntimeError("an interpretation block is entered once: call client.interpretation() for each run")
        self._was_entered = True
        run_id = uuid4()  # a call may repeat its statement: with the same id, only one run starts
        try:
            started = self._calls.call(partial(self._begin, run_id))
        except ReactorError:
            raise
        except BaseException:  # such as KeyboardInterrupt: the run may be beginning
            with suppress(TimeoutError):
                self._calls.call(partial(self._abandon, run_id), within_s=CLOSE_TIMEOUT_S)
            raise
        self._run = Run(started)
        self._calls.run_begins(self._run)
        return SyncInterpretation(self._run, self._calls)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run, self._run = self._run, None
        if run is None or not run.belongs_to_this_process:
            return
        try:
            self._end(run, error)
        finally:
            self._calls.run_ended(run)

    def _end(self, run: Run, error: BaseException | None) -> None:
        if run.lost is not None:
            if error is None:
                raise run.lost
            note_loss(error, run.lost)
        elif error is None:
            self._calls.call(lambda client: run.complete(connections_of(client).ask))
        else:
            with suppress(TimeoutError):  # the call goes on
                self._calls.call(
                    lambda client: run.fail_with(connections_of(client).ask, error), within_s=patience_s(error)
                )

    async def _begin(self, run_id: UUID, client: ReactorClient) -> StartedRun:
        self._beginning = asyncio.current_task()
        return await begin(connections_of(client).ask, self._arguments, run_id)

    async def _abandon(self, run_id: UUID, client: ReactorClient) -> None:
        if self._beginning is not None and not self._beginning.done():
            await asyncio.wait([self._beginning])
        await fail_begun(connections_of(client).ask, run_id)
