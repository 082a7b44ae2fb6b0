"""Failed uploads: put the spooled bytes into the object store again, until they are stored or beyond hope.

An attempt opens the spooled file without following links, streams it once into the store, hashed and counted on the
way, and comes to an outcome: stored, retry after a backoff, dead, or deferred (handed back unspent). An outage of the
store is not a failure of an upload: once distinct uploads have failed alike the breaker opens, and the rest wait
without their tries being counted.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID, uuid4

from attrs import define, field
from loguru import logger

from reactor.core.backoff import Backoff
from reactor.core.circuit_breaker import Breaker
from reactor.core.errors import DatabaseUnavailable, ReactorError, StorageRejected, StorageUnavailable
from reactor.core.events import (
    AttemptSettled,
    AttemptsSettled,
    AttemptsStarted,
    AttemptStarted,
    BreakerMoved,
    Emit,
    LeaseLost,
    Rescued,
    UploadsClaimed,
)
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.core.trace_context import TraceContext, Trail
from reactor.postgres.notification import Hint
from reactor.postgres.upload_queue import Rescue, Settled, Upload, UploadQueue
from reactor.postgres.uuid_array import Uuids
from reactor.reactions.base import Attempt, Claimed, Reaction, Sweep
from reactor.runtime.clock import Clock
from reactor.storage.transfer import StoredObject, Transfer

_SWEEP_LIMIT = 50_000
_SWEEP_PER_TENANT = 5_000
_FIRST_SWEEP_SHARE = 10
_RESCUE_BATCH = 500
_LOOKS = 3
"""How often the database's clock is looked at to begin with: timers are set by it, and a first answer is a slow one."""

_TOLD_AT_ONCE = 8
"""Most settled attempts told of together: log lines and spans of them, some 0.2 ms for each, are made in one piece."""

_MESSAGE_CHARS = 500


@define(kw_only=True, eq=False)
class UploadAttempt(Attempt):
    """One attempt to store one upload."""

    upload: Upload
    trail: Trail
    stored: StoredObject | None = field(default=None, init=False)
    """What is settled as stored: the spooled file is to go."""


class FailedUploads(Reaction[UploadAttempt]):
    """Stores uploads whose first attempt failed."""

    name = "uploads"
    channel = "reactor_uploads"

    def __init__(
        self,
        queue: UploadQueue,
        *,
        transfer: Transfer,
        backoff: Backoff,
        breaker: Breaker,
        clock: Clock,
        emit: Emit,
        attempt_timeout_s: float,
        lease_s: float,
    ) -> None:
        self._queue = queue
        self._transfer = transfer
        self.executor = transfer.executor
        self._backoff = backoff
        self._breaker = breaker
        self._clock = clock
        self._emit = emit
        self._attempt_timeout_s = attempt_timeout_s
        self._lease_s = lease_s
        self._unanswered: dict[int, UUID] = {}
        """The token with which each row was claimed whose claim wasn't answered yet."""
        self._has_swept = False

    def due_at(self, hint: Hint) -> float | None:
        return None if hint.due_ms is None else hint.due_ms / 1000

    # claim

    async def prepare(self) -> None:
        await self._queue.claim(Uuids([]), uuid4())  # opens the connection, and has the statement planned
        for _ in range(_LOOKS):
            asked = self._clock.now()
            database_now = await self._queue.now()
            self._clock.observe(asked, self._clock.now(), database_now)

    async def claim(self, signals: Sequence[Signal]) -> Claimed[UploadAttempt]:
        allowance = self._breaker.allowance(self._clock.now())
        allowed, held_back = signals[:allowance], signals[len(signals) if allowance is None else allowance :]
        later = [Due(signal, self._when_store_may_answer()) for signal in held_back]
        if not allowed:
            return Claimed(later=later)
        signal_of = {signal.row: signal for signal in allowed}  # not by UUIDs, which Python hashes and compares slowly
        sent = self._clock.now()
        uploads: list[Upload] = []
        by_token = self._by_token([signal.row for signal in allowed])
        try:
            for token, rows in by_token.items():
                asked = self._clock.now()
                claimed = await self._queue.claim(Uuids(rows), token)
                if len(rows) == 1:
                    self._read_clock(asked, claimed.uploads)
                if claimed.exhausted:
                    await self._bury(claimed.exhausted)
                uploads += claimed.uploads
                later += [Due(signal_of[row_id.int], due_at) for row_id, due_at in claimed.waiting]
        except DatabaseUnavailable:
            for token, rows in by_token.items():
                self._unanswered |= dict.fromkeys(rows, token)
            raise
        if self._unanswered:
            for signal in allowed:
                self._unanswered.pop(signal.row, None)
        until = sent + self._lease_s
        attempts = [
            UploadAttempt(signal=signal_of[upload.id.int], upload=upload, trail=upload.trail(), lease_until=until)
            for upload in uploads
        ]
        if attempts:
            self._emit(UploadsClaimed(trails=[attempt.trail for attempt in attempts]))
        return Claimed(attempts=attempts, later=later)

    def _read_clock(self, asked: float, uploads: Sequence[Upload]) -> None:
        """See what the database's clock says by a claim of one row, the quickest call there is; a long one misleads."""
        # a claim that is repeated answers when it was made first
        if uploads and uploads[0].waited_since is not None:
            self._clock.observe(asked, self._clock.now(), uploads[0].claimed_at)

    def _by_token(self, rows: list[int]) -> dict[UUID, list[int]]:
        """Return the rows by the token to claim them with.

        A claim that wasn't answered may have committed. Claimed again with its own token it is answered again, and
        counted once; with a new one it would wait for its own lease to end, and an attempt be spent that nobody made.
        """
        fresh = uuid4()
        if not self._unanswered:
            return {fresh: rows}
        by_token: dict[UUID, list[int]] = {}
        for row in rows:
            by_token.setdefault(self._unanswered.get(row, fresh), []).append(row)
        return by_token

    def _when_store_may_answer(self) -> float:
        """Return when the store is worth asking again, in database seconds since 1970."""
        return self._clock.database_now() + self._pause_s()

    def _pause_s(self) -> float:
        retry_at = self._breaker.retry_at
        # the probe is on its way (nothing to wait for but its answer): look again in a moment
        return max(0.25, 0.0 if retry_at is None else retry_at - self._clock.now())

    async def rescue(self) -> Sequence[TraceContext]:
        rescued: list[TraceContext] = []
        while True:
            batch = await self._queue.rescue(None, _RESCUE_BATCH)
            rescued += self._tell_rescued(batch)
            if len(batch) < _RESCUE_BATCH:
                return rescued

    async def _bury(self, exhausted: Sequence[UUID]) -> None:
        self._tell_rescued(await self._queue.rescue(exhausted, len(exhausted)))

    def _tell_rescued(self, rescued: Sequence[Rescue]) -> Sequence[TraceContext]:
        """Tell of each, and of all in figures; return where they stand in their traces."""
        told = [rescue.told() for rescue in rescued]
        for event in told:
            self._emit(event)
        if told:
            counts = Counter(event.verdict for event in told)
            self._emit(Rescued(retried=counts[Verdict.RETRY], buried=counts[Verdict.DEAD]))
        return [event.trail.context for event in told]

    async def sweep(self, horizon_s: float) -> Sweep:
        # a short look at first: whoever starts before a large backlog is to begin with it before knowing it
        share = 1 if self._has_swept else _FIRST_SWEEP_SHARE
        per_tenant, limit = max(1, _SWEEP_PER_TENANT // share), max(1, _SWEEP_LIMIT // share)
        rows = await self._queue.sweep(horizon_s, per_tenant, limit)
        self._has_swept = True
        fullest = max(Counter(tenant for _, tenant, _, _ in rows).values(), default=0)
        return Sweep(
            rows=((Due(Signal(self.name, row_id.int, tenant), due), changed) for row_id, tenant, due, changed in rows),
            complete=fullest < per_tenant and len(rows) < limit,
        )

    # act

    @property
    def is_held_up(self) -> bool:
        # while a probe is on its way nothing else has been claimed
        return self._breaker.retry_at is not None

    def admit(self, attempts: Sequence[UploadAttempt]) -> Sequence[UploadAttempt]:
        now = self._clock.now()
        admitted = attempts[: self._breaker.allowance(now)]
        if self._breaker.is_open:
            for attempt in admitted:
                self._breaker.started(now, attempt.upload.id)
        return admitted

    def begun(self, attempts: Sequence[UploadAttempt]) -> None:
        at = self._clock.database_at
        started: list[AttemptStarted] = []
        for attempt in attempts:
            attempt.deadline = attempt.began + self._attempt_timeout_s
            upload = attempt.upload
            started.append(AttemptStarted(upload.id, upload.attempt, max(0.0, at(attempt.began) - upload.due_at)))
        self._emit(AttemptsStarted(attempts=started))

    def outcomes(self, attempts: Sequence[UploadAttempt]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        is_known_up = False  # a success right after another says nothing new
        for attempt in attempts:
            if attempt.error is None:
                if not is_known_up:
                    self._hear_success()
                is_known_up = True
                outcomes.append(Outcome(Verdict.STORED, storage_url=attempt.result.url))
            else:
                is_known_up = False
                outcomes.append(self._failure(attempt, attempt.error))
        return outcomes

    def _failure(self, attempt: UploadAttempt, error: BaseException) -> Outcome:
        if isinstance(error, ReactorError):
            return self._judge(attempt.upload, error)
        # a bug of ours must not stop the others: this row fails, and we hear of it
        logger.bind(**attempt.trail.fields).opt(exception=error).error("attempt {} broke", attempt.upload.attempt)
        broke = StorageUnavailable("the reactor broke on this upload; its log says how")
        return self._judge(attempt.upload, broke)

    def cut_short(self, attempt: UploadAttempt) -> Outcome:
        attempt.ended = self._clock.now()
        if attempt.ended < attempt.deadline:
            return self.hand_back(attempt)
        no_answer = StorageUnavailable(f"no answer within {self._attempt_timeout_s:g} s")
        return self._judge(attempt.upload, no_answer)

    def _judge(self, upload: Upload, error: ReactorError) -> Outcome:
        """Say what a failure means: try again, give up, or blame the store and count nothing."""
        # a store's own words: PostgreSQL takes no NUL, a terminal should get no escape sequences
        message = "".join(char if char.isprintable() else " " for char in str(error)[:_MESSAGE_CHARS])
        if isinstance(error, StorageUnavailable):
            was_open = self._breaker.is_open
            unspent = self._breaker.failed(self._clock.now(), upload.id, error.retry_after_s)
            self._tell_breaker(was_open)
            if unspent:
                return Outcome(verdict=Verdict.DEFERRED, delay_s=self._pause_s(), code=error.code, message=message)
            permanent = False
        else:
            # it answered, or the fault is in the file: either way nothing speaks against the store
            if isinstance(error, StorageRejected):
                self._hear_success()
            else:
                self._breaker.abandoned(self._clock.now(), upload.id)
            permanent = not error.retryable and not (
                isinstance(error, StorageRejected) and error.denied and upload.last_code != error.code
            )
        if permanent:
            return Outcome(verdict=Verdict.DEAD, code=error.code, message=message)
        if upload.attempt >= upload.max_retries:
            message = f"gave up after {upload.attempt} attempts; the last: {error.code}: {message}"
            return Outcome(verdict=Verdict.DEAD, code="STORAGE_UPLOAD_FAILED", message=message)
        retry_after_s = error.retry_after_s if isinstance(error, StorageUnavailable) else None
        delay_s = self._backoff.delay_s(upload.attempt, random.random(), retry_after_s)  # noqa: S311  # jitter
        return Outcome(verdict=Verdict.RETRY, delay_s=delay_s, code=error.code, message=message)

    def _hear_success(self) -> None:
        was_open = self._breaker.is_open
        self._breaker.succeeded(self._clock.now())
        self._tell_breaker(was_open)

    def _tell_breaker(self, was_open: bool) -> None:
        if self._breaker.is_open != was_open:
            self._emit(BreakerMoved(store=self._transfer.store_name, is_open=self._breaker.is_open))

    def hand_back(self, attempt: UploadAttempt) -> Outcome:
        self._breaker.abandoned(self._clock.now(), attempt.upload.id)
        delay_s = self._pause_s() if self._breaker.is_open else 0.0
        return Outcome(verdict=Verdict.DEFERRED, delay_s=delay_s)

    # settle

    async def settle(self, ended: Sequence[tuple[UploadAttempt, Outcome]]) -> Sequence[Due]:
        settling_at = self._clock.database_now()
        settled = await self._queue.settle([(attempt.upload, outcome) for attempt, outcome in ended])
        if len(settled) < len(ended):
            settled |= await self._settled_before(ended, settled)
        again: list[Due] = []
        told: list[AttemptSettled] = []
        at = self._clock.database_at
        for attempt, outcome in ended:
            if (found := settled.get(attempt.signal.row)) is None:
                # taken over, cancelled, or failed by a call whose answer was lost: let the row say
                again.append(Due(attempt.signal, self._clock.database_now()))
                self._emit(LeaseLost(upload_id=attempt.upload.id))
                continue
            due_at, settled_at = found
            if due_at is not None:
                again.append(Due(attempt.signal, due_at))
            attempt.stored = attempt.result if outcome.verdict is Verdict.STORED else None
            put = (at(attempt.began), at(attempt.ended)) if attempt.began else None
            told.append(AttemptSettled(attempt.trail, outcome, put, settling_at, settled_at))
        for first in range(0, len(told), _TOLD_AT_ONCE):
            self._emit(AttemptsSettled(attempts=told[first : first + _TOLD_AT_ONCE]))
        return again

    async def _settled_before(
        self, ended: Sequence[tuple[UploadAttempt, Outcome]], settled: Mapping[int, Settled]
    ) -> dict[int, Settled]:
        """Return the stored that had left the queue by a call whose answer was lost."""
        missing = [
            (attempt.upload, outcome.storage_url)
            for attempt, outcome in ended
            if attempt.signal.row not in settled and outcome.storage_url is not None
        ]
        if not missing:
            return {}
        confirmed = await self._queue.confirm_stored(missing)
        return dict.fromkeys((row_id.int for row_id in confirmed), Settled(None, self._clock.database_now()))

    async def clean_up(self, settled: Sequence[UploadAttempt]) -> None:
        files = [(attempt.upload, attempt.stored) for attempt in settled if attempt.stored]
        for upload, reason in await self._transfer.remove(files) if files else ():
            logger.bind(**upload.trail().fields).warning("the spooled file stays behind: {}", reason)

    async def extend(self, held: Sequence[UploadAttempt]) -> set[UUID]:
        return await self._queue.extend([attempt.upload for attempt in held])
