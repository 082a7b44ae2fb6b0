"""One started run, without an event loop: what its worker reads, and the calls that begin and end it."""

import os
from asyncio import sleep
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any, LiteralString, Protocol
from uuid import UUID

from reactor.client.arguments import as_id, as_json_text, as_seconds, as_traceparent
from reactor.client.heartbeats import RETRY_S, Heartbeat
from reactor.core.errors import DatabaseUnavailable, ReactorError
from reactor.postgres import statements
from reactor.postgres.results import StartedRun, structured

CLOSE_TIMEOUT_S = 5.0
"""How long a worker that is cancelled, interrupted or exiting may take to fail its run."""

_END_TIMEOUT_S = 30.0
"""How long the end of a run is repeated while the database doesn't answer."""


class Ask(Protocol):
    """Calls one SQL function and returns its answer. `is_urgent`: doesn't wait behind the client's other calls."""

    async def __call__(
        self, statement: LiteralString, arguments: Sequence[Any], *, is_urgent: bool = False
    ) -> Mapping[str, Any]: ...


class Run:
    """A run that has begun, and whether it has ended."""

    def __init__(self, started: StartedRun) -> None:
        self.started = started
        self.lost: ReactorError | None = None
        """Why a reactor or an operator failed the run; None until a heartbeat is refused."""

        self._has_ended = False
        """Whether the worker has ended the run, or is about to."""

        self._process = os.getpid()
        self._deadline = monotonic() + (started.timeout_at - started.started_at).total_seconds()

    @property
    def id(self) -> UUID:
        return self.started.run_id

    @property
    def belongs_to_this_process(self) -> bool:
        """False in a process that was forked during the block: the run stays with its parent."""
        return self._process == os.getpid()

    def heartbeat(self, on_lost: Callable[[ReactorError], None]) -> Heartbeat:
        """Return the run's heartbeats, for HeartbeatSender.start."""
        return Heartbeat(self.id, self.started.heartbeat_timeout_s / 3, self._deadline, on_lost)

    def lose(self, reason: ReactorError) -> None:
        """Record why the run has ended, unless its worker ended it."""
        if not self._has_ended:
            self.lost = reason

    async def fail_as(self, ask: Ask, code: str, message: str | None) -> None:
        """Fail the run with an error code of the worker."""
        self._has_ended = True  # before the call, because a heartbeat may be refused before the answer arrives
        try:
            await ask(statements.FAIL_INTERPRETATION, (self.id, code, message), is_urgent=True)
        except BaseException:
            self._has_ended = False
            raise

    async def complete(self, ask: Ask) -> None:
        """Complete the run. Raises the refusal if the run has failed; DatabaseUnavailable after 30 s of retries."""
        await self._end(ask, statements.COMPLETE_INTERPRETATION, (self.id,))

    async def fail_with(self, ask: Ask, cause: BaseException) -> None:
        """Fail the run with the exception of its worker. If that isn't possible, add a note to `cause`."""
        text = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        message = text.replace("\0", "").encode(errors="replace").decode()
        try:
            await self._end(ask, statements.FAIL_INTERPRETATION, (self.id, "INTERPRETATION_FAILED", message))
        except ReactorError as error:
            cause.add_note(f"run {self.id} could not be failed: {error.code}: {error}")

    async def _end(self, ask: Ask, statement: LiteralString, arguments: Sequence[Any]) -> None:
        """End the run with `statement`. Does nothing if the worker has already ended the run."""
        give_up_at = monotonic() + _END_TIMEOUT_S
        while not self._has_ended:
            try:
                await ask(statement, arguments, is_urgent=True)
                self._has_ended = True
            except DatabaseUnavailable:
                if monotonic() > give_up_at:
                    raise
                await sleep(RETRY_S)


class RunHandle:
    """What both clients give to the worker of a run."""

    def __init__(self, run: Run) -> None:
        self.id = run.started.run_id
        self.source_id = run.started.source_id
        self.timeout_at = run.started.timeout_at
        """When the run times out, by the database's clock."""

        self.traceparent = run.started.traceparent
        """The run's W3C trace context."""

        self._run = run

    @property
    def lost(self) -> ReactorError | None:
        """Why a reactor or an operator failed the run; None until a heartbeat is refused."""
        return self._run.lost

    def check(self) -> None:
        """Raise `lost` if it is set. Call this regularly in work that cannot be cancelled."""
        if self.lost is not None:
            raise self.lost


def note_loss(error: BaseException, lost: ReactorError) -> None:
    """Add a note to the exception of a block whose run was failed elsewhere."""
    if error is not lost:
        error.add_note(f"the run had been failed: {lost.code}: {lost}")


def patience_s(error: BaseException) -> float | None:
    """Return how long failing the run may delay an exception of its block; None: as long as its retries take."""
    return None if isinstance(error, Exception) else CLOSE_TIMEOUT_S


def begin_arguments(
    source_id: object, config: object, timeout_s: object, heartbeat_timeout_s: object, traceparent: str | None
) -> tuple[Any, ...]:
    """Return the arguments of begin_interpretation except the run's id. Raises InvalidArgument."""
    return (
        as_id("source_id", source_id),
        as_json_text("config", {} if config is None else config),
        timedelta(seconds=as_seconds("timeout_s", timeout_s)),
        timedelta(seconds=as_seconds("heartbeat_timeout_s", heartbeat_timeout_s)),
        as_traceparent("traceparent", traceparent),
    )


async def begin(ask: Ask, arguments: Sequence[Any], run_id: UUID) -> StartedRun:
    """Begin the run with this id."""
    return structured(await ask(statements.BEGIN_INTERPRETATION, (*arguments, run_id)), StartedRun)


async def fail_begun(ask: Ask, run_id: UUID) -> None:
    """Fail a run whose worker was interrupted as the run began. Does nothing if the run didn't begin."""
    arguments = (run_id, "INTERPRETATION_FAILED", "interrupted as it began")
    try:
        await ask(statements.FAIL_INTERPRETATION, arguments, is_urgent=True)
    except ReactorError:
        return  # it didn't begin, or its heartbeats will be missed
