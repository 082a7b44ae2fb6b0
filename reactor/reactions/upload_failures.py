"""Decides the outcome of a failed attempt: RETRY, DEAD, or DEFERRED while the store is down."""

import random
from collections.abc import Sequence
from uuid import UUID

from loguru import logger

from reactor.core.backoff import Backoff
from reactor.core.circuit_breaker import CircuitBreaker
from reactor.core.errors import ReactorError, StorageRejected, StorageUnavailable
from reactor.core.events import BreakerMoved, Emit
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.postgres.upload_queue import Upload
from reactor.runtime.clock import Clock

_MESSAGE_CHARS = 500

_PROBE_WAIT_S = 0.25
"""Minimum delay of an upload that the open breaker defers. While a probe is in flight, it is the whole delay."""


class UploadFailures:
    """Computes outcomes of failed attempts from the store's circuit breaker and the backoff."""

    def __init__(self, breaker: CircuitBreaker, backoff: Backoff, *, store_name: str, clock: Clock, emit: Emit) -> None:
        self._breaker = breaker
        self._backoff = backoff
        self._store_name = store_name
        self._clock = clock
        self._emit = emit

    def outcome(self, upload: Upload, error: BaseException) -> Outcome:
        """Return the outcome of an attempt that failed with `error`."""
        if not isinstance(error, ReactorError):
            # a bug of the reactor must not stop other uploads: only this attempt fails, and the bug is logged
            logger.bind(**upload.trail().fields).opt(exception=error).error("attempt {} broke", upload.attempt)
            error = StorageUnavailable("the reactor broke on this upload; its log says how")
        # the message may contain a store's text: remove NUL, which PostgreSQL rejects, and escape sequences
        message = "".join(char if char.isprintable() else " " for char in str(error)[:_MESSAGE_CHARS])
        if isinstance(error, StorageUnavailable):
            was_open = self._breaker.is_open
            is_outage = self._breaker.failed(self._clock.now(), upload.id, error.refusal.retry_after_s)
            self._emit_breaker(was_open)
            if is_outage:
                return Outcome(verdict=Verdict.DEFERRED, delay_s=self.pause_s(), code=error.code, message=message)
            return self._retry_or_give_up(upload, error.code, message, error.refusal.retry_after_s)
        # the store has answered, or the spooled file is at fault: the breaker must not count a failure of the store
        if isinstance(error, StorageRejected):
            self.store_answered()
        else:
            self._breaker.abandoned(self._clock.now(), upload.id)
        # 401 and 403 get one more try, because credentials may be rotating
        is_denied_first = (
            isinstance(error, StorageRejected) and error.refusal.may_be_shared and upload.last_code != error.code
        )
        if not error.retryable and not is_denied_first:
            return Outcome(verdict=Verdict.DEAD, code=error.code, message=message)
        return self._retry_or_give_up(upload, error.code, message, None)

    def _retry_or_give_up(self, upload: Upload, code: str, message: str, retry_after_s: float | None) -> Outcome:
        if upload.attempt >= upload.max_retries:
            message = f"gave up after {upload.attempt} attempts; the last: {code}: {message}"
            return Outcome(verdict=Verdict.DEAD, code="STORAGE_UPLOAD_FAILED", message=message)
        delay_s = self._backoff.delay_s(upload.attempt, random.random(), retry_after_s)  # noqa: S311  # jitter
        return Outcome(verdict=Verdict.RETRY, delay_s=delay_s, code=code, message=message)

    def hand_back(self, upload_id: UUID) -> Outcome:
        """Return the outcome DEFERRED, for an attempt that didn't begin or was abandoned before its deadline."""
        self._breaker.abandoned(self._clock.now(), upload_id)
        return Outcome(verdict=Verdict.DEFERRED, delay_s=self.pause_s() if self._breaker.is_open else 0.0)

    def hold_back(self, signals: Sequence[Signal]) -> tuple[Sequence[Signal], list[Due]]:
        """Return the signals that may be claimed now, and the other signals with the time at which to schedule them."""
        allowance = self._breaker.allowance(self._clock.now())
        if allowance is None:
            return signals, []
        retry_at = self._clock.database_now() + self.pause_s()
        return signals[:allowance], [Due(signal, retry_at) for signal in signals[allowance:]]

    def store_answered(self) -> None:
        """Record that the store works: it has stored an object, or refused one permanently. Closes the breaker."""
        was_open = self._breaker.is_open
        self._breaker.succeeded(self._clock.now())
        self._emit_breaker(was_open)

    def pause_s(self) -> float:
        """Return the seconds until the next probe may start, at least _PROBE_WAIT_S."""
        retry_at = self._breaker.retry_at
        return max(_PROBE_WAIT_S, 0.0 if retry_at is None else retry_at - self._clock.now())

    def _emit_breaker(self, was_open: bool) -> None:
        if self._breaker.is_open != was_open:
            self._emit(BreakerMoved(store=self._store_name, is_open=self._breaker.is_open))
