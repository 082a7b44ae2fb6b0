"""An open breaker admits one probe at a time. A stored upload is confirmed only within the lease of its attempt."""

from functools import partial
from pathlib import Path

import pytest
from support.app import App
from support.manual_clock import ManualClock
from support.recorder import Recorder
from support.spooled import make_spool, make_upload

from reactor.core.backoff import Backoff
from reactor.core.breakers import Breakers
from reactor.core.errors import StorageRefused
from reactor.core.events import AttemptSettled, LeaseLost
from reactor.core.model import Outcome, Signal, Verdict
from reactor.postgres.connection import DedicatedConnection, QueryRunner
from reactor.postgres.upload_queue import UploadQueue
from reactor.reactions.upload_attempt import UploadAttempt
from reactor.reactions.upload_failures import UploadFailures
from reactor.reactions.uploads import FailedUploads, put
from reactor.runtime.thread_pool import ThreadPool
from reactor.storage.spool import Spool
from reactor.storage.stores.local import LocalStore

NO_DATABASE = DedicatedConnection("postgresql://localhost/unused")


def new_attempt() -> UploadAttempt:
    upload = make_upload()
    return UploadAttempt(
        signal=Signal("uploads", upload.id.int, 1), tenant=1, upload=upload, trail=upload.trail(), lease_until=0.0
    )


def reaction_on(
    database: QueryRunner, tmp_path: Path, *, breakers: Breakers, clock: ManualClock, recorder: Recorder
) -> FailedUploads:
    (tmp_path / "store").mkdir(parents=True)
    spool, store = Spool({"default": make_spool(tmp_path)}), LocalStore(tmp_path / "store")
    pool = ThreadPool[UploadAttempt](partial(put, spool, store), 1, name="test")
    backoff = Backoff(base_s=1.0, factor=2.0, max_s=60.0, jitter=0.0)
    return FailedUploads(
        UploadQueue(database, claims=database, lease_s=30.0),
        executor=pool,
        spool=spool,
        run_in_thread=pool.run,
        breakers=breakers,
        failures=UploadFailures(breakers, backoff, clock=clock, emit=recorder),
        clock=clock,
        emit=recorder,
        attempt_timeout_s=300.0,
        lease_s=30.0,
    )


async def test_an_open_breaker_admits_no_attempt_and_then_one_probe_at_a_time(tmp_path: Path) -> None:
    clock, breakers = ManualClock(), Breakers("store")
    reaction = reaction_on(NO_DATABASE, tmp_path, breakers=breakers, clock=clock, recorder=Recorder())
    attempts = [new_attempt() for _ in range(3)]
    assert reaction.admit(attempts) == (attempts, ())
    assert not reaction.must_admit_again()

    expired = StorageRefused("400 ExpiredToken", reason="ExpiredToken")
    attempts[0].error, attempts[0].ended = expired, clock.now()
    [outcome] = reaction.outcomes(attempts[:1])
    assert (outcome.verdict, outcome.code) == (Verdict.DEFERRED, "STORAGE_REFUSED")
    assert reaction.must_admit_again()
    assert not reaction.must_admit_again()
    assert reaction.admit(attempts) == ([], attempts)

    clock.advance(1.0)
    assert reaction.admit(attempts) == (attempts[:1], attempts[1:])
    assert attempts[0].renews_credentials
    assert reaction.admit(attempts[1:]) == ([], attempts[1:])

    assert reaction.hand_back(attempts[0]).verdict is Verdict.DEFERRED  # the probe ends without a start
    assert reaction.admit(attempts[1:]) == (attempts[1:2], attempts[2:])


@pytest.mark.parametrize(("lease_left_s", "kind"), [(1.0, AttemptSettled), (-1.0, LeaseLost)])
async def test_a_stored_upload_is_confirmed_only_within_its_lease(
    app: App, tmp_path: Path, lease_left_s: float, kind: type[AttemptSettled | LeaseLost]
) -> None:
    """After the lease, another reactor may have stored the upload and counted it: only its file may be removed.

    The attempt ended within its lease in both cases. In the second, the reactor was stopped before it settled.
    """
    [queued] = app.queue_uploads()
    clock, recorder = ManualClock(), Recorder()
    database = DedicatedConnection(app.url)
    reaction = reaction_on(database, tmp_path / "other", breakers=Breakers("store"), clock=clock, recorder=recorder)
    try:
        queue = UploadQueue(database, claims=database, lease_s=30.0)
        [upload] = (await queue.claim([queued.id.int])).uploads
        outcome = Outcome(Verdict.STORED, storage_url="file:///store/a")
        await queue.settle([(upload, outcome)], trusted=1)  # deletes the row, as a settlement of any reactor would
        attempt = UploadAttempt(
            signal=Signal("uploads", upload.id.int, 1),
            tenant=1,
            upload=upload,
            trail=upload.trail(),
            lease_until=clock.now() + lease_left_s,
        )
        attempt.began, attempt.ended, attempt.result = (
            clock.now() - 3.0,
            clock.now() - 2.0,
            ("file:///store/a", (1, 2, 3)),
        )
        await reaction.settle([(attempt, outcome)])
    finally:
        await database.close()
    assert [type(event) for event in recorder.events] == [kind]
    assert attempt.stored_file == (1, 2, 3)
