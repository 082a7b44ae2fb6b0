"""The circuit breakers of one reactor: for the store, and for each bucket, spool and user whose uploads failed.

A refusal concerns one place: the store, the upload's bucket, or its spool. The breaker of a place counts users, so that
one user never opens it for everybody. A second breaker, for this user in this place, counts uploads: when a store fails
for the only active user, that user's uploads keep their retries too. An answer from a bucket proves that the store
answers, and any success in a place closes all breakers of the place.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from attrs import evolve, frozen

from reactor.core.circuit_breaker import CircuitBreaker
from reactor.core.refusal import Guard, Place, Refusal, Scope

USERS_TO_OPEN: Final = 3
"""Number of users whose failures open the breaker of a place."""

UPLOADS_TO_OPEN: Final = 5
"""Number of one user's uploads whose failures open the breaker of this user in a place."""

MOST_PLACES: Final = 100
"""Maximum number of places with breakers. Rows may name any number of buckets that don't exist."""

MOST_TENANTS: Final = 1_000
"""Maximum number of breakers in one place."""

_FORGET_OPEN_AFTER_S: Final = 60.0
"""An open breaker is forgotten when no upload was refused for this long after its pause: none waits for it."""

_FORGET_CLOSED_AFTER_S: Final = 3_600.0
"""The failures of a closed breaker are forgotten this long after the last one."""

SHARED_CODES: Final = {
    Guard.STORE: "STORAGE_REFUSED",
    Guard.BUCKET: "STORAGE_REFUSED",
    Guard.SPOOL: "SPOOL_UNAVAILABLE",
}
"""Maps each kind of place to the public error code of a refusal that several users got alike."""

_ANSWERS_FOR: Final = (Guard.STORE, Guard.BUCKET)


class Subject(NamedTuple):
    """The upload of an attempt, its tenant, and its places."""

    id: UUID
    tenant: int
    bucket: str
    spool: str


@frozen(kw_only=True)
class OpenBreaker:
    """A place with an open breaker, and the refusal that opened it."""

    place: Place
    refusal: Refusal
    code: str
    """The public error code of the refusal."""

    message: str
    is_for_all: bool = True
    """False if the breaker is open for the uploads of some users only."""


class Breakers:
    """Decides which uploads may start, from the results of earlier attempts. `now` is monotonic seconds."""

    def __init__(self, store_name: str) -> None:
        self._store = Place(Guard.STORE, store_name)

        # Invariant: every breaker here is open or has failed members; others are removed. The key None is the breaker
        # for everybody, another key the breaker of this tenant.
        self._at: dict[Place, dict[int | None, CircuitBreaker]] = {}
        self._refused_at: dict[Place, float] = {}
        self._openers: dict[Place, UUID] = {}
        """The upload whose shared refusal has opened the breaker of each place."""
        self._outliers: dict[Place, UUID] = {}
        """The last upload in each place that was refused as if for everybody, while the next one was stored."""
        self._last_probe: int | None = None
        """Tenant of the last probe."""

        self.open: dict[Place, OpenBreaker] = {}
        """The places with an open breaker. Read only."""

        # Invariant: true exactly when `_at` is empty. An attribute, because each claim and each outcome reads it.
        self.is_clear = True
        """Whether no attempt has failed since the last success. Then any upload may start. Read only."""

        self.has_opened = False
        """True when a breaker has opened since the caller set this to False."""

    # which uploads may start

    def claimable(self, now: float, tenants: Iterable[int]) -> list[bool]:
        """Return for each waiting upload, given by its tenant, whether the store's breakers allow to claim it.

        The bucket and the spool of an upload are not known before its claim. If only a probe may start, it is an upload
        of another tenant than the last probe's, if there is one: one tenant's refused uploads can't be all the probes.
        """
        tenants = list(tenants)
        breakers = self._at.get(self._store, {})
        left = {tenant: breaker.allowance(now) for tenant, breaker in breakers.items()}
        candidates = list(range(len(tenants)))
        if left.get(None) == 1:
            candidates.sort(key=lambda index: tenants[index] == self._last_probe)
        claimable = [False] * len(tenants)
        for index in candidates:
            keys = [key for key in (None, tenants[index]) if left.get(key) is not None]
            if all(left[key] for key in keys):
                claimable[index] = True
                left |= dict.fromkeys(keys, 0)
        return claimable

    def held_names(self, now: float, kind: Guard) -> list[str]:
        """Return the names of the buckets or spools in which no upload may start now."""
        return [
            place.name
            for place, breakers in self._at.items()
            if place.kind is kind and None in breakers and breakers[None].allowance(now) == 0
        ]

    def may_start(self, now: float, subject: Subject) -> bool:
        """Return whether the upload may start now. If a breaker is open, the upload becomes its probe."""
        breakers = self._of(subject)
        if not all(breaker.may_start(now, subject.id) for breaker in breakers):
            return False
        for breaker in breakers:
            if breaker.is_open:
                self._last_probe = subject.tenant
            breaker.started(now, subject.id)
        return True

    def is_open_for(self, subject: Subject) -> bool:
        """Return whether a breaker of the upload is open."""
        return any(breaker.is_open for breaker in self._of(subject))

    def is_shared_at(self, subject: Subject) -> bool:
        """Return whether a place of the upload refuses everybody, so that an attempt probes with new credentials."""
        return any(
            self.open[place].refusal.scope is Scope.SHARED for place in self._places(subject) if place in self.open
        )

    def pause_s(self, now: float, subject: Subject) -> float:
        """Return the seconds until a probe of the upload's open breakers may start; 0 if it may start now."""
        return self._longest_pause_s(now, self._of(subject))

    def store_pause_s(self, now: float, tenant: int) -> float:
        """Return the seconds until the store's breakers may allow an upload of the tenant; 0 if they allow one now."""
        breakers = self._at.get(self._store, {})
        return self._longest_pause_s(now, [breakers[key] for key in (None, tenant) if key in breakers])

    # results

    def succeeded(self, now: float, subject: Subject) -> None:
        """Record that the upload was stored. Closes the breakers of its places, for all users."""
        for place in self._places(subject):
            opener = self._openers.get(place)
            self._close(now, place)
            if opener is not None and opener != subject.id:
                self._outliers[place] = opener

    def failed(self, now: float, subject: Subject, refusal: Refusal, *, code: str, message: str) -> bool:
        """Record a refusal of the upload. Return True if the attempt must not be counted."""
        self._record_answer(now, subject, refusal)
        if refusal.scope is Scope.UPLOAD and not refusal.may_be_shared:
            return False
        place = next(place for place in self._places(subject) if place.kind is refusal.guard)
        if refusal.scope is Scope.SHARED and self._outliers.get(place) == subject.id:
            # others were stored since, so this refusal isn't shared, whatever its code, and must not hold others again
            refusal = evolve(refusal, scope=Scope.PASSING)
        is_shared = refusal.scope is Scope.SHARED
        is_counted = not self._fail(now, place, None, subject, refusal)
        if refusal.scope is Scope.PASSING:
            is_counted &= not self._fail(now, place, subject.tenant, subject, refusal)
        breakers = self._at.get(place, {})
        if any(breaker.is_open for breaker in breakers.values()):
            is_for_all = None in breakers and breakers[None].is_open
            if refusal.may_be_shared:  # several users are refused alike: the refusal is shared
                refusal, is_shared = evolve(refusal, scope=Scope.SHARED), True
                code = SHARED_CODES[place.kind]
            known = self.open.get(place)
            is_new_cause = known is None or (is_shared and known.refusal.reason != refusal.reason)
            if known is None or is_new_cause or known.is_for_all != is_for_all:
                self.open[place] = OpenBreaker(
                    place=place, refusal=refusal, code=code, message=message, is_for_all=is_for_all
                )
        return is_shared or not is_counted

    def abandoned(self, now: float, subject: Subject) -> None:
        """Record that the attempt ended without a result. If it was a probe, the next probe may start immediately."""
        for breaker in self._of(subject):
            breaker.abandoned(now, subject.id)

    def forget_unused(self, now: float) -> None:
        """Close the breakers of places where no upload waits any more, because it was cancelled or purged."""
        for place, breakers in list(self._at.items()):
            if any(breaker.is_open and breaker.retry_at is None for breaker in breakers.values()):
                continue  # a probe is in flight
            is_open = any(breaker.is_open for breaker in breakers.values())
            last_at = max(self._refused_at[place], *(breaker.retry_at or 0.0 for breaker in breakers.values()))
            if now - last_at > (_FORGET_OPEN_AFTER_S if is_open else _FORGET_CLOSED_AFTER_S):
                self._close(now, place)

    def _fail(self, now: float, place: Place, tenant: int | None, subject: Subject, refusal: Refusal) -> bool:
        """Record the failure in one breaker of a place. Return True if the attempt must not be counted."""
        if place not in self._at and len(self._at) >= MOST_PLACES:
            return False
        breakers = self._at.setdefault(place, {})
        self.is_clear = False
        if tenant not in breakers:
            if len(breakers) >= MOST_TENANTS:
                return False
            breakers[tenant] = CircuitBreaker(USERS_TO_OPEN if tenant is None else UPLOADS_TO_OPEN)
        breaker = breakers[tenant]
        was_open = breaker.is_open
        is_free = breaker.failed(
            now,
            subject.id,
            member=subject.tenant if tenant is None else None,
            is_shared=refusal.scope is Scope.SHARED,
            retry_after_s=refusal.retry_after_s,
        )
        self._refused_at[place] = now
        if breaker.is_open and not was_open:
            self.has_opened = True
            if refusal.scope is Scope.SHARED:
                self._openers[place] = subject.id
        return is_free

    def _record_answer(self, now: float, subject: Subject, refusal: Refusal) -> None:
        """Record what a refusal proves about the upload's places: a bucket that answers proves that the store answers.

        A refusal without the place's own code is no answer: the reactor refused the upload before it asked.
        """
        is_plain = refusal.scope is Scope.UPLOAD and not refusal.may_be_shared
        for place in self._places(subject):
            if place.kind is refusal.guard and not is_plain:
                continue
            if refusal.reason and (place.kind is refusal.guard or (place.kind, refusal.guard) == _ANSWERS_FOR):
                self._close(now, place)
            else:
                for breaker in self._of_place(place, subject.tenant):
                    breaker.abandoned(now, subject.id)

    def _close(self, now: float, place: Place) -> None:
        for breaker in self._at.pop(place, {}).values():
            breaker.succeeded(now)
        self.is_clear = not self._at
        self._refused_at.pop(place, None)
        self._openers.pop(place, None)
        self.open.pop(place, None)

    def _of(self, subject: Subject) -> list[CircuitBreaker]:
        return [breaker for place in self._places(subject) for breaker in self._of_place(place, subject.tenant)]

    def _of_place(self, place: Place, tenant: int) -> list[CircuitBreaker]:
        breakers = self._at.get(place, {})
        return [breakers[key] for key in (None, tenant) if key in breakers]

    def _places(self, subject: Subject) -> Sequence[Place]:
        return self._store, Place(Guard.BUCKET, subject.bucket), Place(Guard.SPOOL, subject.spool)

    @staticmethod
    def _longest_pause_s(now: float, breakers: Iterable[CircuitBreaker]) -> float:
        return max((breaker.retry_at - now for breaker in breakers if breaker.retry_at is not None), default=0.0)
