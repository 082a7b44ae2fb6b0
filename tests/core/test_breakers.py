"""Tests of the circuit breakers of stores, buckets, spools and users: which uploads a refusal holds, and which not."""

from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.core.breakers import MOST_PLACES, UPLOADS_TO_OPEN, USERS_TO_OPEN, Breakers, Subject
from reactor.core.errors import (
    ContentMismatch,
    ReactorError,
    SpoolUnavailable,
    StorageRefused,
    StorageRejected,
    StorageUnavailable,
)
from reactor.core.refusal import Guard, Place, Scope

STORE = Place(Guard.STORE, "store")
BUSY = StorageUnavailable("503 SlowDown", http_status=503)
EXPIRED = StorageRefused("400 ExpiredToken", reason="ExpiredToken", check="AWS_PROFILE")
NO_BUCKET = StorageRefused("404 NoSuchBucket", reason="NoSuchBucket", guard=Guard.BUCKET)
DENIED = StorageRejected("403 AccessDenied", http_status=403, reason="AccessDenied", may_be_shared=True)
BAD_KEY = StorageRejected("400 InvalidURI", http_status=400, reason="InvalidURI")
UNMOUNTED = SpoolUnavailable("the spool's directory can't be opened", reason="ENOENT")


def upload(number: int, tenant: int = 1, *, bucket: str = "files", spool: str = "default") -> Subject:
    return Subject(UUID(int=number), tenant, bucket, spool)


def fail(breakers: Breakers, subject: Subject, error: ReactorError, now: float = 100.0) -> bool:
    """Report the failure; return whether the attempt is not counted."""
    return breakers.failed(now, subject, error.refusal, code=error.code, message=str(error))


def starting(breakers: Breakers, subjects: Sequence[Subject], now: float) -> list[Subject]:
    return [subject for subject in subjects if breakers.may_start(now, subject)]


def test_without_a_failure_every_upload_may_start() -> None:
    breakers = Breakers("store")

    assert breakers.is_clear
    assert breakers.claimable(0, [1, 1, 2]) == [True, True, True]
    assert breakers.may_start(0, upload(1))


@pytest.mark.parametrize("error", [EXPIRED, NO_BUCKET, UNMOUNTED])
def test_a_shared_refusal_opens_the_breaker_of_its_place_immediately_and_is_never_counted(error: ReactorError) -> None:
    breakers = Breakers("store")

    assert fail(breakers, upload(1), error)
    assert fail(breakers, upload(2), error)
    [opened] = breakers.open.values()
    assert (opened.place.kind, opened.code, opened.is_for_all) == (error.refusal.guard, error.code, True)
    assert breakers.has_opened


@pytest.mark.parametrize("error", [EXPIRED, NO_BUCKET, UNMOUNTED])
def test_one_probe_at_a_time_starts_after_the_pause(error: ReactorError) -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1), error, now=100)
    waiting = [upload(number, tenant=number) for number in range(2, 5)]

    assert starting(breakers, waiting, now=100.9) == []
    assert starting(breakers, waiting, now=101) == waiting[:1]
    assert starting(breakers, waiting, now=102) == waiting[:1]
    assert breakers.is_shared_at(waiting[0])


def test_a_missing_bucket_holds_no_upload_to_another_bucket() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1, bucket="gone"), NO_BUCKET)

    assert breakers.may_start(100, upload(2, bucket="files"))
    assert not breakers.may_start(100, upload(3, bucket="gone"))
    assert breakers.held_names(100, Guard.BUCKET) == ["gone"]
    assert breakers.claimable(100, [1, 1]) == [True, True]


def test_a_missing_spool_holds_no_upload_of_another_spool() -> None:
    breakers = Breakers("store")
    for number in range(60):
        fail(breakers, upload(number, spool="b"), UNMOUNTED)

    assert breakers.may_start(100, upload(100, tenant=2, spool="a"))
    assert breakers.held_names(100, Guard.SPOOL) == ["b"]
    assert breakers.open.keys() == {Place(Guard.SPOOL, "b")}


def test_failures_of_one_user_never_hold_another_users_uploads() -> None:
    breakers = Breakers("store")
    counted = [not fail(breakers, upload(number), BUSY) for number in range(60)]

    assert counted == [True] * UPLOADS_TO_OPEN + [False] * (60 - UPLOADS_TO_OPEN)
    assert breakers.claimable(100, [1, 2, 1]) == [False, True, False]
    assert breakers.may_start(100, upload(100, tenant=2))
    assert not breakers.open[STORE].is_for_all


def test_failures_of_several_users_open_the_breaker_of_the_store() -> None:
    breakers = Breakers("store")
    counted = [not fail(breakers, upload(number, tenant=number), BUSY) for number in range(USERS_TO_OPEN + 1)]

    assert counted == [True] * USERS_TO_OPEN + [False]
    assert breakers.claimable(100, [100]) == [False]
    assert breakers.open[STORE].is_for_all


def test_the_same_denial_of_several_users_is_a_shared_refusal_of_the_bucket() -> None:
    breakers = Breakers("store")
    free = [fail(breakers, upload(number, tenant=number), DENIED) for number in range(USERS_TO_OPEN + 1)]

    assert free == [False] * (USERS_TO_OPEN - 1) + [True, True]
    [opened] = breakers.open.values()
    assert (opened.place, opened.code) == (Place(Guard.BUCKET, "files"), "STORAGE_REFUSED")
    assert opened.refusal.scope is Scope.SHARED


def test_denials_of_one_user_hold_nothing() -> None:
    breakers = Breakers("store")

    assert not any(fail(breakers, upload(number), DENIED) for number in range(60))
    assert breakers.may_start(100, upload(100))


def test_a_success_between_denials_shows_that_they_are_not_shared() -> None:
    breakers = Breakers("store")
    for number in range(10):
        assert not fail(breakers, upload(number, tenant=number), DENIED)
        breakers.succeeded(100, upload(100 + number, tenant=100))

    assert breakers.is_clear


def test_a_success_closes_the_breakers_of_its_places_for_all_users() -> None:
    breakers = Breakers("store")
    for number in range(60):
        fail(breakers, upload(number, tenant=number % 2), BUSY)
    fail(breakers, upload(1, bucket="gone"), NO_BUCKET)
    breakers.succeeded(100, upload(100, tenant=3))

    assert breakers.open.keys() == {Place(Guard.BUCKET, "gone")}
    assert breakers.may_start(100, upload(1))


def test_one_upload_that_is_refused_as_if_for_everybody_holds_the_others_only_once() -> None:
    """A proxy may change the signed path of one object, so that the store refuses only this upload's signature."""
    breakers = Breakers("store")
    odd, other = upload(1), upload(2, tenant=2)
    assert fail(breakers, odd, EXPIRED, now=100)
    breakers.succeeded(101, other)
    assert not fail(breakers, odd, EXPIRED, now=102)
    assert breakers.may_start(102, other)

    assert fail(breakers, other, EXPIRED, now=103)  # now the credentials have expired
    assert not breakers.may_start(103, upload(3))


def test_the_probe_that_opened_a_breaker_and_closes_it_is_no_outlier() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1), EXPIRED, now=100)
    assert breakers.may_start(101, upload(1))
    breakers.succeeded(101, upload(1))

    assert fail(breakers, upload(1), EXPIRED, now=200)


def test_a_refusal_by_the_bucket_proves_that_the_store_answers() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1), EXPIRED)
    fail(breakers, upload(2), BAD_KEY)

    assert breakers.open == {}


def test_a_refusal_before_the_store_was_asked_proves_nothing() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1), EXPIRED)
    fail(breakers, upload(2), ContentMismatch())
    fail(breakers, upload(3), StorageRejected("the bucket's name isn't one that S3 allows"))

    assert breakers.open.keys() == {STORE}


def test_a_probe_that_ends_without_an_answer_makes_room_for_the_next_one() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1), EXPIRED, now=100)
    assert breakers.may_start(101, upload(2))
    fail(breakers, upload(2), UNMOUNTED, now=101)

    assert breakers.may_start(101, upload(3, spool="other"))


def test_a_probe_of_the_store_is_an_upload_of_another_tenant_if_there_is_one() -> None:
    """Otherwise the refused uploads of one tenant could be all the probes, and hold everybody's uploads."""
    breakers = Breakers("store")
    fail(breakers, upload(1), EXPIRED, now=100)
    assert breakers.may_start(101, upload(2, tenant=1))
    fail(breakers, upload(2, tenant=1), EXPIRED, now=101)

    assert breakers.claimable(200, [1, 1, 2, 3]) == [False, False, True, False]
    assert breakers.claimable(200, [1, 1]) == [True, False]


def test_breakers_that_no_upload_waits_for_are_forgotten() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1, bucket="gone"), NO_BUCKET, now=100)
    fail(breakers, upload(2), BUSY, now=100)
    breakers.forget_unused(150)
    assert breakers.open
    breakers.forget_unused(200)

    assert breakers.open == {}
    assert not breakers.is_clear
    breakers.forget_unused(4_000)
    assert breakers.is_clear


def test_a_breaker_is_not_forgotten_while_its_probe_is_in_flight() -> None:
    breakers = Breakers("store")
    fail(breakers, upload(1), EXPIRED, now=100)
    assert breakers.may_start(101, upload(2))
    breakers.forget_unused(1_000)

    assert not breakers.may_start(1_000, upload(3))


def test_the_number_of_breakers_is_limited_and_shared_refusals_are_still_not_counted() -> None:
    breakers = Breakers("store")

    assert all(fail(breakers, upload(number, bucket=f"b{number}"), NO_BUCKET) for number in range(2 * MOST_PLACES))
    assert len(breakers.open) == MOST_PLACES


ERRORS = st.sampled_from([BUSY, EXPIRED, NO_BUCKET, DENIED, BAD_KEY, UNMOUNTED, ContentMismatch()])
SUBJECTS = st.builds(
    upload,
    st.integers(0, 30),
    st.integers(0, 3),
    bucket=st.sampled_from(["a", "b"]),
    spool=st.sampled_from(["x", "y"]),
)


@given(st.lists(st.tuples(SUBJECTS, ERRORS | st.none())))
def test_after_a_success_in_all_places_nothing_is_held(results: list[tuple[Subject, ReactorError | None]]) -> None:
    breakers = Breakers("store")
    for now, (subject, error) in enumerate(results):
        if error is None:
            breakers.succeeded(now, subject)
        else:
            fail(breakers, subject, error, now=now)
    for bucket, spool in (("a", "x"), ("b", "y")):
        breakers.succeeded(1_000, upload(99, bucket=bucket, spool=spool))

    assert breakers.is_clear
    assert breakers.open == {}


@given(st.lists(st.tuples(SUBJECTS, ERRORS)), st.lists(SUBJECTS, min_size=1))
def test_a_pause_ends_with_a_probe_of_each_held_place(
    results: list[tuple[Subject, ReactorError]], waiting: list[Subject]
) -> None:
    """No upload is held for ever: after its pause, it or another upload of its places may start."""
    breakers = Breakers("store")
    for now, (subject, error) in enumerate(results):
        fail(breakers, subject, error, now=now)
    later = len(results) + max(breakers.pause_s(len(results), subject) for subject in waiting)

    assert starting(breakers, waiting, later)
