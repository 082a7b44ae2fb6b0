"""Failed uploads: copy the spooled bytes into the object store, until they are stored or the upload is dead.

An attempt reads the spooled file once, hashes and counts the bytes, and streams them into the store. Its outcome is
stored, retry (after a backoff), dead, or deferred (the attempt isn't counted). During an outage of the store, the
circuit breaker defers uploads, so that they don't use up their retries.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from anyio import move_on_after
from attrs import define, field
from loguru import logger

from reactor.core.circuit_breaker import CircuitBreaker
from reactor.core.errors import StorageUnavailable
from reactor.core.events import (
    AttemptSettled,
    AttemptsSettled,
    AttemptsStarted,
    AttemptStarted,
    DatabaseLost,
    Emit,
    LeaseLost,
    UploadDied,
    UploadsClaimed,
)
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.core.trace_context import TraceContext, Trail
from reactor.postgres.notification import Hint
from reactor.postgres.upload_answers import Extension, Settled, Settlement
from reactor.postgres.upload_queue import Upload, UploadQueue
from reactor.reactions.base import Attempt, AttemptReaction, ClaimResult, SettleResult, Sweep
from reactor.reactions.upload_backlog import UploadBacklog
from reactor.reactions.upload_failures import UploadFailures
from reactor.reactions.upload_refusals import UploadRefusals
from reactor.runtime.clock import Clock
from reactor.runtime.executor import Executor
from reactor.storage.spool import Identity, Spool
from reactor.storage.stores.base import ObjectStore

_CLOCK_READINGS = 3
"""Number of readings of the database's clock before the first claim. The first answers are slow, so one is too few."""

_CLOCK_INTERVAL_S = 1.0
"""Minimum time between two claims that measure the database's clock."""

_EVENT_BATCH = 8
"""Maximum number of settled attempts in one event. Log line and spans of an attempt take about 0.2 ms, and other tasks
wait until the whole event is handled."""

_REMOVE_BATCH = 50
"""Maximum number of spooled files that one call removes. A short call lets puts run between two calls."""

_REMOVE_WITHIN_S = 30.0
"""Maximum time to remove the files of one settlement. A disk that hangs must not block settlements."""


class SpooledFiles(Protocol):
    """Removes spooled files; see `Spool.remove`."""

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]: ...


RunInThread = Callable[[Callable[[], list[str | None]]], Awaitable[list[str | None]]]


@define(kw_only=True, eq=False)
class UploadAttempt(Attempt):
    """One attempt to store one upload. `result` is the object's URL and the identity of the spooled file."""

    upload: Upload
    trail: Trail
    stored_file: Identity | None = field(default=None, init=False)
    """The spooled file to remove. Set when the upload is settled as stored; None before."""


def put(spool: Spool, store: ObjectStore, attempt: UploadAttempt) -> tuple[str, Identity]:
    """Copy one upload's bytes from the spool into the store; return the object's URL and the file's identity.

    Blocks. Raises what `Spool.open` and `ObjectStore.put` raise.
    """
    upload = attempt.upload
    with spool.open(
        upload.spool,
        upload.temp_file_path or "",
        size_bytes=upload.byte_size,
        sha256=upload.content_hash or "",
        reader=attempt,
    ) as body:
        url = store.put(upload.bucket, upload.object_path, body, mime_type=upload.mime_type)
        return url, body.identity


class FailedUploads(AttemptReaction[UploadAttempt]):
    """Stores uploads whose first attempt failed."""

    name = "uploads"
    channel = "reactor_uploads"

    def __init__(
        self,
        queue: UploadQueue,
        *,
        executor: Executor[UploadAttempt],
        spool: SpooledFiles,
        run_in_thread: RunInThread,
        breaker: CircuitBreaker,
        failures: UploadFailures,
        clock: Clock,
        emit: Emit,
        attempt_timeout_s: float,
        lease_s: float,
    ) -> None:
        """`executor` calls `put` for each attempt. `run_in_thread` runs a call that removes files."""
        self.executor = executor
        self.attempt_timeout_s = attempt_timeout_s
        self._queue = queue
        self._spool = spool
        self._run_in_thread = run_in_thread
        self._breaker = breaker
        self._failures = failures
        self._clock = clock
        self._emit = emit
        self._lease_s = lease_s
        self._measure_clock_at = 0.0
        self._backlog = UploadBacklog(queue, reaction_name=self.name, emit=emit)
        self._refusals = UploadRefusals(clock=clock, emit=emit)

    def due_at(self, hint: Hint) -> float | None:
        return None if hint.due_ms is None else hint.due_ms / 1000

    # claim

    async def prepare(self) -> None:
        await self._queue.claim([])  # opens the connection and plans the statement
        for _ in range(_CLOCK_READINGS):
            asked = self._clock.now()
            database_now = await self._queue.now()
            self._clock.observe(asked, self._clock.now(), database_now)

    async def claim(self, signals: Sequence[Signal]) -> ClaimResult[UploadAttempt]:
        later: list[Due] = []
        if not self._breaker.is_clear:
            signals, later = self._failures.hold_back(signals)
            if not signals:
                return ClaimResult(later=later)
        signal_of = {signal.row: signal for signal in signals}
        sent = self._clock.now()
        claimed = await self._queue.claim(list(signal_of))
        if len(signals) == 1 and claimed.uploads and sent >= self._measure_clock_at:
            self._measure_clock(sent, claimed.uploads[0])
        locked = [signal_of[row_id.int] for row_id in claimed.locked]
        if claimed.exhausted:
            buried, refused_too = await self._backlog.bury(claimed.exhausted)
            ended = buried | {each.id for each in refused_too}
            claimed.refused.extend(refused_too)
            locked += [signal_of[row_id.int] for row_id in claimed.exhausted if row_id not in ended]
        later += self._refusals.check_again(locked, signal_of)
        for refused in claimed.refused:
            later += self._refusals.report(signal_of[refused.id.int], refused)
        later += [Due(signal_of[row_id.int], due_at) for row_id, due_at in claimed.waiting]
        lease_until = sent + self._lease_s
        attempts = [
            UploadAttempt(
                signal=(signal := signal_of[upload.id.int]),
                tenant=signal.tenant,
                upload=upload,
                trail=upload.trail(),
                lease_until=lease_until,
            )
            for upload in claimed.uploads
        ]
        if attempts:
            self._emit(UploadsClaimed(trails=[attempt.trail for attempt in attempts]))
        return ClaimResult(attempts=attempts, later=later)

    def _measure_clock(self, asked: float, upload: Upload) -> None:
        """Measure the offset of the database's clock from a claim of one row, which has the shortest round trip."""
        if upload.waited_since is not None:  # else the claim was repeated, and its round trip may include a failed call
            answered = self._clock.now()
            self._clock.observe(asked, answered, upload.claimed_at)
            self._measure_clock_at = answered + _CLOCK_INTERVAL_S

    # rescue and sweep

    async def rescue(self) -> Sequence[TraceContext]:
        return await self._backlog.rescue()

    async def sweep(self, horizon_s: float) -> Sweep:
        return await self._backlog.sweep(horizon_s)

    # act

    @property
    def is_held_up(self) -> bool:
        # False during a probe: the probe must not be handed back, and no other attempt waits for the executor
        return not self._breaker.is_clear and self._breaker.retry_at is not None

    def admit(self, attempts: Sequence[UploadAttempt]) -> Sequence[UploadAttempt]:
        if self._breaker.is_clear:
            return attempts
        now = self._clock.now()
        admitted = attempts[: self._breaker.allowance(now)]
        for attempt in admitted:
            self._breaker.started(now, attempt.upload.id)
        return admitted

    def started(self, attempts: Sequence[UploadAttempt]) -> None:
        offset_s = self._clock.offset_s
        events: list[AttemptStarted] = []
        for attempt in attempts:
            attempt.deadline = attempt.began + self.attempt_timeout_s
            upload = attempt.upload
            lag_s = max(0.0, attempt.began + offset_s - upload.due_at)
            events.append(AttemptStarted(upload.id, upload.attempt, lag_s))
        self._emit(AttemptsStarted(attempts=events))

    def outcomes(self, attempts: Sequence[UploadAttempt]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for attempt in attempts:
            if attempt.error is None:
                if not self._breaker.is_clear:
                    self._failures.store_answered()
                url, _ = attempt.result
                outcomes.append(Outcome(Verdict.STORED, storage_url=url))
            else:
                outcomes.append(self._failures.outcome(attempt.upload, attempt.error))
        return outcomes

    def cut_short(self, attempt: UploadAttempt) -> Outcome:
        attempt.ended = self._clock.now()
        if attempt.ended < attempt.deadline:
            return self.hand_back(attempt)
        no_answer = StorageUnavailable(f"no answer within {self.attempt_timeout_s:g} s")
        return self._failures.outcome(attempt.upload, no_answer)

    def hand_back(self, attempt: UploadAttempt) -> Outcome:
        return self._failures.hand_back(attempt.upload.id)

    # settle

    async def settle(self, ended: Sequence[tuple[UploadAttempt, Outcome]]) -> SettleResult[UploadAttempt]:
        settling_at = self._clock.now() + self._clock.offset_s
        ended, trusted = self._refusals.suspects_last(ended)
        settlement = await self._queue.settle([(attempt.upload, outcome) for attempt, outcome in ended], trusted)
        for reason in {message for message in settlement.busy.values() if message}:
            self._emit(DatabaseLost(doing="settle uploads", reason=reason))
        busy = [attempt for attempt, _ in ended if attempt.signal.row in settlement.busy]
        ended = [(attempt, outcome) for attempt, outcome in ended if attempt.signal.row not in settlement.busy]
        settled = settlement.settled | await self._confirm(ended, settlement, settling_at)
        if settlement.refused:
            settled |= {row: Settled(None, each.refused_at) for row, each in settlement.refused.items() if each.is_dead}
            ended = [
                (attempt, self._refusals.outcome(attempt, outcome, settlement.refused)) for attempt, outcome in ended
            ]
        due_again: list[Due] = []
        events: list[AttemptSettled] = []
        offset_s = self._clock.offset_s
        for attempt, outcome in ended:
            if (found := settled.get(attempt.signal.row)) is None:
                if (refused := settlement.refused.get(attempt.signal.row)) is not None:
                    due_again.append(self._refusals.set_aside(attempt.signal, refused))
                    continue
                # taken over, cancelled, or settled by a call without an answer: the next claim checks the row
                due_again.append(Due(attempt.signal, self._clock.database_now()))
                self._emit(LeaseLost(upload_id=attempt.upload.id))
                continue
            due_at, settled_at = found
            if due_at is not None:
                due_again.append(Due(attempt.signal, due_at))
            if outcome.verdict is Verdict.STORED:
                _, attempt.stored_file = attempt.result
            elif outcome.verdict is Verdict.DEAD:
                self._emit(UploadDied(attempt.upload.id, settled_at, outcome.code, outcome.message))
            put_times = (attempt.began + offset_s, attempt.ended + offset_s) if attempt.began else None
            events.append(AttemptSettled(attempt.trail, outcome, put_times, settling_at, settled_at))
        for first in range(0, len(events), _EVENT_BATCH):
            self._emit(AttemptsSettled(attempts=events[first : first + _EVENT_BATCH]))
        return SettleResult(later=due_again, busy=busy)

    async def _confirm(
        self, ended: Sequence[tuple[UploadAttempt, Outcome]], settlement: Settlement, settling_at: float
    ) -> dict[int, Settled]:
        """Return the uploads that an earlier settlement of these attempts has stored, if its answer was lost."""
        known = settlement.settled.keys() | settlement.refused.keys()
        missing = {
            attempt.signal.row: (attempt, outcome) for attempt, outcome in ended if attempt.signal.row not in known
        }
        stored = await self._queue.confirm_stored([(attempt.upload, outcome) for attempt, outcome in missing.values()])
        confirmed: dict[int, Settled] = {}
        for row in stored:
            attempt, _ = missing[row]
            if self._clock.now() < attempt.lease_until:
                confirmed[row] = Settled(None, settling_at)
            else:  # another reactor may have stored the upload, and counted it: only its file is not needed any more
                _, attempt.stored_file = attempt.result
        return confirmed

    async def clean_up(self, settled: Sequence[UploadAttempt]) -> None:
        """Remove the spooled files of stored uploads."""
        stored = [(attempt, file) for attempt in settled if (file := attempt.stored_file) is not None]
        reasons: list[str | None] = []
        with move_on_after(_REMOVE_WITHIN_S, shield=True):
            for first in range(0, len(stored), _REMOVE_BATCH):
                files = [
                    (attempt.upload.spool, attempt.upload.temp_file_path or "", file)
                    for attempt, file in stored[first : first + _REMOVE_BATCH]
                ]
                reasons += await self._run_in_thread(partial(self._spool.remove, files))
        reasons += [f"no answer within {_REMOVE_WITHIN_S:g} s"] * (len(stored) - len(reasons))
        for (attempt, _), reason in zip(stored, reasons, strict=True):
            if reason is not None:
                logger.bind(**attempt.trail.fields).warning("The spooled file stays behind: {}", reason)

    async def extend(self, held: Sequence[UploadAttempt]) -> Extension:
        return await self._queue.extend([attempt.upload for attempt in held])
