"""One interpretation while its worker is at it: begun, kept alive, ended.

Invariant: a run that begins here is completed, failed, or no longer ours: never left running while its worker lives on.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, LiteralString, Protocol
from uuid import UUID, uuid4

from anyio import CancelScope, create_task_group, current_time, get_cancelled_exc_class, move_on_after, sleep

from reactor.core.errors import DatabaseUnavailable, ReactorError
from reactor.postgres import statements
from reactor.postgres.results import Begun

_RETRY_S = 0.5
_END_PATIENCE_S = 30.0
"""How long the end of a run is tried for while the database doesn't answer."""

_GIVE_UP_S = 5.0
"""The same where the worker was cancelled, and somebody waits for it."""


class Asker(Protocol):
    """Whoever calls the SQL functions."""

    async def ask(self, statement: LiteralString, arguments: Sequence[Any]) -> Mapping[str, Any]: ...


class Interpretation:
    """A running interpretation, as its worker sees it."""

    def __init__(self, asker: Asker, begun: Begun) -> None:
        self._asker = asker
        self._begun = begun
        self._ends_at = current_time() + (begun.timeout_at - begun.started_at).total_seconds()
        self._has_ended = False
        self.lost: ReactorError | None = None
        """Why the run is no longer ours; None while it is."""

    @property
    def id(self) -> UUID:
        return self._begun.run_id

    @property
    def source_id(self) -> UUID:
        return self._begun.source_id

    @property
    def timeout_at(self) -> datetime:
        """When it is failed, if it hasn't ended before; by the database's clock."""
        return self._begun.timeout_at

    @property
    def traceparent(self) -> str:
        """W3C trace context of the run."""
        return self._begun.traceparent

    def check(self) -> None:
        """Raise why the run is no longer ours, if it isn't: for work that can't be cancelled."""
        if self.lost is not None:
            raise self.lost

    async def fail(self, code: str, message: str | None = None) -> None:
        """Fail the run with a code of the worker's own (capitals, digits, _). Leaving the block then ends nothing."""
        await self._asker.ask(statements.FAIL_INTERPRETATION, (self.id, code, message))
        self._has_ended = True

    async def keep_alive(self, scope: CancelScope) -> None:
        """Send heartbeats at a third of the heartbeat timeout; when the run turns out to be lost, cancel `scope`.

        A database that doesn't answer loses nothing: it is asked again, and its word counts when it comes.
        """
        every_s = self._begun.heartbeat_timeout_s / 3
        wait_s = every_s
        while True:
            left_s = self._ends_at - current_time()
            await sleep(min(wait_s, left_s) if left_s > 0 else wait_s)  # and at the deadline, not a third later
            try:
                await self._asker.ask(statements.HEARTBEAT_INTERPRETATION, (self.id,))
            except DatabaseUnavailable:
                wait_s = min(every_s, _RETRY_S)
            except ReactorError as error:
                if not self._has_ended:
                    self.lost = error
                    scope.cancel()
                return
            else:
                wait_s = every_s

    async def complete(self) -> None:
        """Complete the run. Raises why it can't be completed any more."""
        if not self._has_ended:
            await self._end(statements.COMPLETE_INTERPRETATION, (self.id,))

    async def give_up(self, reason: BaseException) -> None:
        """Fail the run because of what its worker raised, which stays what is raised: a failure here is noted on it."""
        if self._has_ended:
            return
        message = f"{type(reason).__name__}: {reason}".replace("\0", "").encode(errors="replace").decode()
        try:
            await self._end(statements.FAIL_INTERPRETATION, (self.id, "INTERPRETATION_FAILED", message))
        except ReactorError as error:
            reason.add_note(f"and run {self.id} couldn't be failed: {error.code}: {error}")

    async def _end(self, statement: LiteralString, arguments: Sequence[Any]) -> None:
        give_up_at = current_time() + _END_PATIENCE_S
        while True:
            try:
                await self._asker.ask(statement, arguments)
            except DatabaseUnavailable:
                if current_time() > give_up_at:
                    raise
                await sleep(_RETRY_S)
            else:
                self._has_ended = True
                return


@asynccontextmanager
async def interpreting(asker: Asker, begin: Callable[[UUID], Awaitable[Begun]]) -> AsyncIterator[Interpretation]:
    """Begin an interpretation, keep it alive while the block runs, and end it as the block ended."""
    run_id = uuid4()  # an id of our own: a beginning that is repeated is one run
    try:
        begun = await begin(run_id)
    except get_cancelled_exc_class():
        with move_on_after(_GIVE_UP_S, shield=True), suppress(ReactorError):  # NotFound: it didn't begin
            await asker.ask(statements.FAIL_INTERPRETATION, (run_id, "INTERPRETATION_FAILED", "cancelled as it began"))
        raise
    run = Interpretation(asker, begun)
    failure: Exception | None = None
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(run.keep_alive, tasks.cancel_scope)
            try:
                yield run
            except Exception as error:  # noqa: BLE001  # raised again below, outside of the group that would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if run.lost is not None:
            raise run.lost from failure
        if failure is not None:
            await run.give_up(failure)
            raise failure
        await run.complete()
    except get_cancelled_exc_class() as cancelled:
        with move_on_after(_GIVE_UP_S, shield=True):
            await run.give_up(cancelled)
        raise
