"""Decides the outcome of a failed attempt: RETRY, DEAD, or DEFERRED when the attempt must not be counted."""

import errno
import random
from collections.abc import Iterable, Sequence

from loguru import logger

from reactor.core.backoff import Backoff
from reactor.core.breakers import SHARED_CODES, Breakers, OpenBreaker, Subject
from reactor.core.causes import causes
from reactor.core.errors import ReactorError, StorageUnavailable
from reactor.core.events import BreakerMoved, Emit
from reactor.core.model import Due, Outcome, Signal, Verdict
from reactor.core.printable import printable
from reactor.core.refusal import Guard, Place, Refusal, Scope
from reactor.postgres.upload_answers import Held, Upload
from reactor.runtime.clock import Clock

_MESSAGE_CHARS = 500

_PROBE_WAIT_S = 0.25
"""Minimum delay of an upload that an open breaker defers. While a probe is in flight, it is the whole delay."""


_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE}


def subject_of(tenant: int, upload: Upload) -> Subject:
    """Return what the breakers need to know of a claimed upload."""
    return Subject(upload.id, tenant, upload.bucket, upload.spool)


class UploadFailures:
    """Computes outcomes of attempts from the circuit breakers and the backoff, and reports the breakers' changes."""

    def __init__(self, breakers: Breakers, backoff: Backoff, *, clock: Clock, emit: Emit) -> None:
        self._breakers = breakers
        self._backoff = backoff
        self._clock = clock
        self._emit = emit
        self._reported: dict[Place, OpenBreaker] = {}
        """The open breakers that were reported."""

    def outcome(self, tenant: int, upload: Upload, error: BaseException) -> Outcome:
        """Return the outcome of an attempt that failed with `error`."""
        error = _without_descriptor(error) or error
        if not isinstance(error, ReactorError):
            # a bug of the reactor must not stop other uploads: only this attempt fails, and the bug is logged
            logger.bind(**upload.trail().fields).opt(exception=error).error("attempt {} broke", upload.attempt)
            error = StorageUnavailable("the reactor broke on this upload; its log says how")
        # the message may contain a store's text: remove NUL, which PostgreSQL rejects, and escape sequences
        message = printable(str(error)[:_MESSAGE_CHARS], replacement=" ")
        subject, refusal = subject_of(tenant, upload), error.refusal
        is_free = self._breakers.failed(self._clock.now(), subject, refusal, code=error.code, message=message)
        self.report_breakers()
        if is_free:
            code = SHARED_CODES[refusal.guard] if refusal.may_be_shared else error.code
            return Outcome(verdict=Verdict.DEFERRED, delay_s=self._pause_s(subject), code=code, message=message)
        # the first 403 gets one more try: it may become a shared refusal when other users get it too
        is_suspected = refusal.may_be_shared and upload.last_code != error.code
        if refusal.scope is Scope.UPLOAD and not is_suspected:
            return Outcome(verdict=Verdict.DEAD, code=error.code, message=message)
        return self._retry_or_give_up(upload, error.code, message, refusal.retry_after_s)

    def _retry_or_give_up(self, upload: Upload, code: str, message: str, retry_after_s: float | None) -> Outcome:
        if upload.attempt >= upload.max_retries:
            message = f"gave up after {upload.attempt} attempts; the last: {code}: {message}"
            return Outcome(verdict=Verdict.DEAD, code="STORAGE_UPLOAD_FAILED", message=message)
        delay_s = self._backoff.delay_s(upload.attempt, random.random(), retry_after_s)  # noqa: S311  # jitter
        return Outcome(verdict=Verdict.RETRY, delay_s=delay_s, code=code, message=message)

    def hand_back(self, tenant: int, upload: Upload) -> Outcome:
        """Return the outcome DEFERRED, for an attempt that didn't begin or was abandoned before its deadline."""
        subject = subject_of(tenant, upload)
        self._breakers.abandoned(self._clock.now(), subject)
        may_start = self._breakers.is_clear or not self._breakers.is_open_for(subject)
        return Outcome(verdict=Verdict.DEFERRED, delay_s=0.0 if may_start else self._pause_s(subject))

    def stored(self, tenant: int, upload: Upload) -> None:
        """Record that the store has stored the upload: the breakers of its places close."""
        self._breakers.succeeded(self._clock.now(), subject_of(tenant, upload))
        self.report_breakers()

    def hold_back(self, signals: Sequence[Signal]) -> tuple[Sequence[Signal], list[Due]]:
        """Return the signals that may be claimed now, and the others with the time at which to schedule them."""
        now, database_now = self._clock.now(), self._clock.database_now()
        claimable = self._breakers.claimable(now, [signal.tenant for signal in signals])
        held = [signal for signal, may_claim in zip(signals, claimable, strict=True) if not may_claim]
        later = [
            Due(signal, database_now + max(_PROBE_WAIT_S, self._breakers.store_pause_s(now, signal.tenant)))
            for signal in held
        ]
        return [signal for signal, may_claim in zip(signals, claimable, strict=True) if may_claim], later

    def held_places(self) -> Held:
        """Return the buckets and spools in which no upload may start now."""
        now = self._clock.now()
        return Held(self._breakers.held_names(now, Guard.BUCKET), self._breakers.held_names(now, Guard.SPOOL))

    def hold(self, held: Iterable[tuple[Signal, Subject]]) -> list[Due]:
        """Return when to schedule the signals of uploads that weren't claimed, because their place is held."""
        database_now = self._clock.database_now()
        return [Due(signal, database_now + self._pause_s(subject)) for signal, subject in held]

    def report_breakers(self) -> None:
        """Emit an event for each place whose breaker has opened or closed, or is open for another reason."""
        if self._breakers.open == self._reported:
            return
        for place in self._reported.keys() - self._breakers.open.keys():
            self._emit(BreakerMoved(place=place))
        for place, opened in self._breakers.open.items():
            if self._reported.get(place) != opened:
                self._emit(BreakerMoved(place=place, opened=opened))
        self._reported = dict(self._breakers.open)

    def _pause_s(self, subject: Subject) -> float:
        """Return the seconds until the next probe may start, at least _PROBE_WAIT_S."""
        return max(_PROBE_WAIT_S, self._breakers.pause_s(self._clock.now(), subject))


def _without_descriptor(error: BaseException) -> ReactorError | None:
    """Return the error of an attempt that lacked a file descriptor, wherever it did; None for any other error.

    The limit is the reactor's or the host's, so the refusal is shared: it counts against no upload.
    """
    failed = (cause for cause in causes(error, with_suppressed=True) if isinstance(cause, OSError))
    cause = next((each for each in failed if each.errno in _NO_DESCRIPTOR), None)
    if cause is None:
        return None
    lacking = StorageUnavailable(f"the reactor has no free file descriptor: {cause.strerror}")
    lacking.refusal = Refusal(
        scope=Scope.SHARED,
        reason=errno.errorcode[cause.errno or 0],
        check="the limit of open files (LimitNOFILE, ulimit -n)",
    )
    return lacking
