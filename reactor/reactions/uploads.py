"""Failed uploads: copy the spooled bytes into the object store, until they are stored or the upload is dead.

An attempt reads the spooled file once, hashes and counts the bytes, and streams them into the store. Its outcome is
stored, retry (after a backoff), dead, or deferred (the attempt isn't counted). During an outage of the store, the
circuit breaker defers uploads, so that they don't use up their retries.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from anyio import move_on_after
from loguru import logger

from reactor.core.breakers import Breakers, Subject
from reactor.core.errors import StorageUnavailable
from reactor.core.events import (
    AttemptsStarted,
    AttemptStarted,
    Emit,
    UploadsClaimed,
)
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.core.trace_context import TraceContext
from reactor.postgres.notification import Hint
from reactor.postgres.upload_answers import NOTHING_HELD, Extension, Upload
from reactor.postgres.upload_queue import UploadQueue
from reactor.reactions.base import AttemptReaction, ClaimResult, SettleResult, Sweep
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.reactions.upload_backlog import UploadBacklog
from reactor.reactions.upload_failures import UploadFailures, subject_of
from reactor.reactions.upload_refusals import UploadRefusals
from reactor.reactions.upload_settlements import UploadSettlements
from reactor.runtime.clock import Clock
from reactor.runtime.executor import Executor
from reactor.storage.spool import Identity, Spool
from reactor.storage.stores.base import ObjectStore

_CLOCK_READINGS = 3
"""Number of readings of the database's clock before the first claim. The first answers are slow, so one is too few."""

_CLOCK_INTERVAL_S = 1.0
"""Minimum time between two claims that measure the database's clock."""

_REMOVE_WITHIN_S = 30.0
"""Maximum time to remove the files of one settlement. A disk that hangs must not block settlements."""


class SpooledFiles(Protocol):
    """Removes spooled files; see `Spool.remove`."""

    def remove(self, files: Iterable[tuple[str, str, Identity]]) -> list[str | None]: ...


RunInThread = Callable[[Callable[[], list[str | None]]], Awaitable[list[str | None]]]


def put(spool: Spool, store: ObjectStore, attempt: UploadAttempt) -> tuple[str, Identity]:
    """Copy one upload's bytes from the spool into the store; return the object's URL and the file's identity.

    Blocks. Raises what `Spool.open`, `ObjectStore.renew` and `ObjectStore.put` raise.
    """
    upload = attempt.upload
    if attempt.renews_credentials:
        store.renew()
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
        breakers: Breakers,
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
        self._breakers = breakers
        self._failures = failures
        self._clock = clock
        self._emit = emit
        self._lease_s = lease_s
        self._measure_clock_at = 0.0
        self._backlog = UploadBacklog(queue, reaction_name=self.name, emit=emit)
        self._refusals = UploadRefusals(clock=clock, emit=emit)
        self._settlements = UploadSettlements(queue, self._refusals, clock=clock, emit=emit)

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
        held = NOTHING_HELD
        if not self._breakers.is_clear:
            held = self._failures.held_places()
            signals, later = self._failures.hold_back(signals)
            if not signals:
                return ClaimResult(later=later)
        signal_of = {signal.row: signal for signal in signals}
        sent = self._clock.now()
        claimed = await self._queue.claim(list(signal_of), held)
        if len(signals) == 1 and claimed.uploads and sent >= self._measure_clock_at:
            self._measure_clock(sent, claimed.uploads[0])
        locked = [signal_of[row_id.int] for row_id in claimed.locked]
        if claimed.exhausted:
            buried, refused_too = await self._backlog.bury(claimed.exhausted)
            ended = buried | {each.id for each in refused_too}
            claimed.refused.extend(refused_too)
            locked += [signal_of[row_id.int] for row_id in claimed.exhausted if row_id not in ended]
        if locked or self._refusals.has_locked:
            later += self._refusals.check_again(locked, signal_of)
        for refused in claimed.refused:
            later += self._refusals.report(signal_of[refused.id.int], refused)
        later += [Due(signal_of[row_id.int], due_at) for row_id, due_at in claimed.waiting]
        if claimed.held:
            later += self._failures.hold(
                (signal_of[row_id.int], Subject(row_id, signal_of[row_id.int].tenant, bucket, spool))
                for row_id, bucket, spool in claimed.held
            )
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
        self._breakers.forget_unused(self._clock.now())
        self._failures.report_breakers()
        return await self._backlog.sweep(horizon_s)

    # act

    def must_admit_again(self) -> bool:
        has_opened, self._breakers.has_opened = self._breakers.has_opened, False
        return has_opened

    def admit(self, attempts: Sequence[UploadAttempt]) -> tuple[Sequence[UploadAttempt], Sequence[UploadAttempt]]:
        if self._breakers.is_clear:
            return attempts, ()
        now = self._clock.now()
        admitted: list[UploadAttempt] = []
        held: list[UploadAttempt] = []
        for attempt in attempts:
            subject = subject_of(attempt.tenant, attempt.upload)
            if self._breakers.may_start(now, subject):
                attempt.renews_credentials = self._breakers.is_shared_at(subject)
                admitted.append(attempt)
            else:
                held.append(attempt)
        return admitted, held

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
                if not self._breakers.is_clear:
                    self._failures.stored(attempt.tenant, attempt.upload)
                url, _ = attempt.result
                outcomes.append(Outcome(Verdict.STORED, storage_url=url))
            else:
                outcomes.append(self._failures.outcome(attempt.tenant, attempt.upload, attempt.error))
        return outcomes

    def cut_short(self, attempt: UploadAttempt) -> Outcome:
        attempt.ended = self._clock.now()
        if attempt.ended < attempt.deadline:
            return self.hand_back(attempt)
        no_answer = StorageUnavailable(f"no answer within {self.attempt_timeout_s:g} s")
        return self._failures.outcome(attempt.tenant, attempt.upload, no_answer)

    def hand_back(self, attempt: UploadAttempt) -> Outcome:
        return self._failures.hand_back(attempt.tenant, attempt.upload)

    # settle

    async def settle(self, ended: Sequence[tuple[UploadAttempt, Outcome]]) -> SettleResult[UploadAttempt]:
        return await self._settlements.settle(ended)

    async def clean_up(self, settled: Sequence[UploadAttempt]) -> None:
        """Remove the spooled files of stored uploads."""
        stored = [(attempt, file) for attempt in settled if (file := attempt.stored_file) is not None]
        if not stored:
            return
        files = [(attempt.upload.spool, attempt.upload.temp_file_path or "", file) for attempt, file in stored]
        reasons: list[str | None] = [f"no answer within {_REMOVE_WITHIN_S:g} s"] * len(stored)
        with move_on_after(_REMOVE_WITHIN_S, shield=True):
            reasons = await self._run_in_thread(partial(self._spool.remove, files))
        for (attempt, _), reason in zip(stored, reasons, strict=True):
            if reason is not None:
                logger.bind(**attempt.trail.fields).warning("The spooled file stays behind: {}", reason)

    async def extend(self, held: Sequence[UploadAttempt]) -> Extension:
        return await self._queue.extend([attempt.upload for attempt in held])
