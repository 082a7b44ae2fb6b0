"""Starts one interpretation run, sends its heartbeats, and completes or fails it.

Invariant: after the block the run has ended. Exception: if the database doesn't answer, a reactor fails the run later.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, LiteralString
from uuid import UUID, uuid4

from anyio import CancelScope, create_task_group, current_time, get_cancelled_exc_class, move_on_after, sleep

from reactor.core.errors import DatabaseFailure, DatabaseUnavailable, ReactorError
from reactor.postgres import statements
from reactor.postgres.results import StartedRun

_RETRY_S = 0.5
_END_TIMEOUT_S = 30.0
"""How long `complete` and `fail_with` retry while the database does not answer."""

_CANCELLED_END_TIMEOUT_S = 5.0
"""How long a cancelled worker may take to fail its run. Meanwhile the code that cancelled the worker waits."""

Ask = Callable[[LiteralString, Sequence[Any]], Awaitable[Mapping[str, Any]]]
"""A function that calls one SQL function and returns its answer, such as ReactorClient.ask."""


class Interpretation:
    """A running interpretation, for its worker. `ReactorClient.interpretation` creates it."""

    def __init__(self, ask: Ask, started: StartedRun) -> None:
        self.id = started.run_id
        self.source_id = started.source_id
        self.timeout_at = started.timeout_at
        """When the run times out, by the database's clock."""

        self.traceparent = started.traceparent
        """The run's W3C trace context."""

        self.lost: ReactorError | None = None
        """Why a reactor or an operator failed the run; None until a heartbeat is refused."""

        self._ask = ask
        self._heartbeat_interval_s = started.heartbeat_timeout_s / 3
        self._deadline = current_time() + (started.timeout_at - started.started_at).total_seconds()
        self._has_ended = False

    def check(self) -> None:
        """Raise `lost` if it is set. Call this regularly in work that cannot be cancelled."""
        if self.lost is not None:
            raise self.lost

    async def fail(self, code: str, message: str | None = None) -> None:
        """Fail the run with an error code of the worker. Leaving the block then doesn't change the run.

        `code` consists of capitals, digits and `_`.
        """
        await self._ask(statements.FAIL_INTERPRETATION, (self.id, code, message))
        self._has_ended = True

    async def keep_alive(self, scope: CancelScope) -> None:
        """Send heartbeats until the database refuses a heartbeat; then set `lost` and cancel `scope`.

        The interval is a third of the heartbeat timeout. A heartbeat without an answer is sent again: only a refusal
        of the database shows that the run has ended.
        """
        wait_s = interval_s = self._heartbeat_interval_s
        while True:
            left_s = self._deadline - current_time()
            await sleep(min(wait_s, left_s) if left_s > 0 else wait_s)  # at the deadline, send a heartbeat immediately
            wait_s = interval_s
            try:
                await self._ask(statements.HEARTBEAT_INTERPRETATION, (self.id,))
            except DatabaseUnavailable:
                wait_s = min(interval_s, _RETRY_S)
            except DatabaseFailure:
                pass  # not a refusal by the run's state: the next heartbeat asks again
            except ReactorError as error:
                if not self._has_ended:
                    self.lost = error
                    scope.cancel()
                return

    async def complete(self) -> None:
        """Complete the run. Raises the refusal if the run has failed; DatabaseUnavailable after 30 s of retries."""
        await self._end(statements.COMPLETE_INTERPRETATION, (self.id,))

    async def fail_with(self, cause: BaseException) -> None:
        """Fail the run with the exception of its worker. If that isn't possible, add a note to `cause`."""
        message = f"{type(cause).__name__}: {cause}".replace("\0", "").encode(errors="replace").decode()
        try:
            await self._end(statements.FAIL_INTERPRETATION, (self.id, "INTERPRETATION_FAILED", message))
        except ReactorError as error:
            cause.add_note(f"run {self.id} could not be failed: {error.code}: {error}")

    async def _end(self, statement: LiteralString, arguments: Sequence[Any]) -> None:
        """End the run with `statement`. Does nothing if the worker has already ended the run."""
        give_up_at = current_time() + _END_TIMEOUT_S
        while not self._has_ended:
            try:
                await self._ask(statement, arguments)
                self._has_ended = True
            except DatabaseUnavailable:
                if current_time() > give_up_at:
                    raise
                await sleep(_RETRY_S)


@asynccontextmanager
async def interpreting(ask: Ask, begin: Callable[[UUID], Awaitable[StartedRun]]) -> AsyncIterator[Interpretation]:
    """Start a run with `begin(run_id)`, send heartbeats during the block, and end the run when the block ends."""
    run_id = uuid4()  # `ask` may repeat the statement: with the same id, only one run starts
    try:
        started = await begin(run_id)
    except get_cancelled_exc_class():
        # if the run didn't start, this raises NotFound
        with move_on_after(_CANCELLED_END_TIMEOUT_S, shield=True), suppress(ReactorError):
            await ask(statements.FAIL_INTERPRETATION, (run_id, "INTERPRETATION_FAILED", "cancelled as it began"))
        raise
    run = Interpretation(ask, started)
    failure: Exception | None = None
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(run.keep_alive, tasks.cancel_scope)
            try:
                yield run
            except Exception as error:  # noqa: BLE001  # raised again outside the task group, which would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if run.lost is not None:
            raise run.lost from failure
        if failure is not None:
            await run.fail_with(failure)
            raise failure
        await run.complete()
    except get_cancelled_exc_class() as cancelled:
        with move_on_after(_CANCELLED_END_TIMEOUT_S, shield=True):
            await run.fail_with(cancelled)
        raise
