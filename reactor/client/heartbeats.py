"""Sends the heartbeats of all runs of one event loop, in batches, on a connection that runs nothing else.

Thousands of calls that wait for the client's pool therefore delay no heartbeat. One task sends the heartbeats; it ends
with the last run. The task is no part of any caller's task (reactor/README.md, decision 55).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from time import monotonic
from typing import Any
from uuid import UUID

from attrs import define

from reactor.core.errors import DatabaseUnavailable, ReactorError
from reactor.postgres.results import accepted

RETRY_S = 0.5
"""After this time a heartbeat without an answer is sent again."""

_EARLY = 0.1
"""A heartbeat is sent early by up to this part of its interval if another run's heartbeat is due: they share a call."""

_BATCH = 500

Send = Callable[[Sequence[UUID]], Awaitable[Mapping[str, Any]]]
"""Sends one heartbeat for each of these runs; returns the answer of heartbeat_interpretations."""


@define(eq=False)
class Heartbeat:
    """The heartbeats of one run, sent at a third of the heartbeat timeout."""

    run_id: UUID
    interval_s: float
    deadline: float
    """When the run times out, as time.monotonic(). A heartbeat at this time is refused, with the reason."""

    on_lost: Callable[[ReactorError], None]
    """Called once, in the event loop, with the reason why the run has ended."""

    due_at: float = 0.0


class HeartbeatSender:
    """Sends heartbeats between `start` and `stop` of each run. Used in one event loop only."""

    def __init__(self, send: Send, close: Callable[[], Awaitable[None]]) -> None:
        """`close` is called after the last run's end, and closes the connection that `send` uses."""
        self._send = send
        self._close = close
        self._heartbeats: dict[UUID, Heartbeat] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, heartbeat: Heartbeat) -> None:
        """Send the heartbeats of a run until `stop`, or until the database refuses one."""
        now = monotonic()
        heartbeat.due_at = _next_due(heartbeat, now)
        self._heartbeats[heartbeat.run_id] = heartbeat
        self._changed.set()
        if self._task is None:
            # an empty context: the task outlives the request, so it must not keep the request's span
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    def stop(self, run_id: UUID) -> None:
        """Send no more heartbeats of a run. A refusal that arrives later is ignored."""
        self._heartbeats.pop(run_id, None)
        self._changed.set()

    async def finish(self) -> None:
        """If no run is left, wait until the connection is closed."""
        if self._task is not None and not self._heartbeats:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._heartbeats:
                try:
                    while self._heartbeats:
                        await self._wait_until_due()
                        await self._send_due()
                finally:
                    await self._close()
        finally:
            self._task = None

    async def _send_due(self) -> None:
        now = monotonic()
        due = [each for each in self._heartbeats.values() if each.due_at - _EARLY * each.interval_s <= now]
        if any(each.due_at <= now for each in due):
            for start in range(0, len(due), _BATCH):
                await self._send_batch(due[start : start + _BATCH])

    async def _wait_until_due(self) -> None:
        """Wait until a heartbeat is due, or until a run starts or ends."""
        self._changed.clear()
        wait_s = min(each.due_at for each in self._heartbeats.values()) - monotonic()
        timer = asyncio.get_running_loop().call_later(max(0.0, wait_s), self._changed.set)
        await self._changed.wait()
        timer.cancel()

    async def _send_batch(self, batch: list[Heartbeat]) -> None:
        """Send one heartbeat of each run. Without an answer, send it again: only a refusal shows that a run ended."""
        sent_at = monotonic()
        try:
            answer = accepted(await self._send([each.run_id for each in batch]))
        except DatabaseUnavailable:
            busy = {str(each.run_id) for each in batch}
            refused: Mapping[str, Any] = {}
        except ReactorError as error:
            for each in batch:
                self._lose(each, error)
            return
        else:
            busy, refused = set(answer["busy"]), answer["refused"]
        for each in batch:
            key = str(each.run_id)
            if (refusal := refused.get(key)) is not None:
                self._lose(each, _error_of(refusal))
            elif key in busy:
                each.due_at = monotonic() + min(each.interval_s, RETRY_S)
            else:
                each.due_at = _next_due(each, sent_at)

    def _lose(self, heartbeat: Heartbeat, reason: ReactorError) -> None:
        if self._heartbeats.get(heartbeat.run_id) is heartbeat:
            del self._heartbeats[heartbeat.run_id]
            heartbeat.on_lost(reason)


def _next_due(heartbeat: Heartbeat, now: float) -> float:
    """Return when the next heartbeat is due: after the interval, or at the run's deadline if that comes first."""
    due_at = now + heartbeat.interval_s
    return min(due_at, heartbeat.deadline) if heartbeat.deadline > now else due_at


def _error_of(refusal: Mapping[str, Any]) -> ReactorError:
    """Return the exception of a refusal."""
    try:
        accepted(refusal)
    except ReactorError as error:
        return error
    raise AssertionError  # unreachable: a refusal isn't `ok`
