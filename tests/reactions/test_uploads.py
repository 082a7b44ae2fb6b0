"""Which claimed uploads the reaction admits while the circuit breaker is open."""

from functools import partial
from pathlib import Path

from support.manual_clock import ManualClock
from support.recorder import Recorder
from support.spooled import make_spool, make_upload

from reactor.core.backoff import Backoff
from reactor.core.circuit_breaker import CircuitBreaker
from reactor.core.model import Signal, Verdict
from reactor.postgres.connection import DedicatedConnection
from reactor.postgres.upload_queue import UploadQueue
from reactor.reactions.upload_failures import UploadFailures
from reactor.reactions.uploads import FailedUploads, UploadAttempt, put
from reactor.runtime.thread_pool import ThreadPool
from reactor.storage.spool import Spool
from reactor.storage.stores.local import LocalStore

NO_DATABASE = DedicatedConnection("postgresql://localhost/nobody")


def new_attempt() -> UploadAttempt:
    upload = make_upload()
    return UploadAttempt(
        signal=Signal("uploads", upload.id.int, 1), tenant=1, upload=upload, trail=upload.trail(), lease_until=0.0
    )


async def test_an_open_breaker_admits_no_attempt_and_then_one_probe_at_a_time(tmp_path: Path) -> None:
    clock, breaker = ManualClock(), CircuitBreaker(threshold=2, first_pause_s=1.0)
    (tmp_path / "store").mkdir()
    spool, store = Spool({"default": make_spool(tmp_path)}), LocalStore(tmp_path / "store")
    pool = ThreadPool[UploadAttempt](partial(put, spool, store), 1, name="test")
    backoff = Backoff(base_s=1.0, factor=2.0, max_s=60.0, jitter=0.0)
    reaction = FailedUploads(
        UploadQueue(NO_DATABASE, claims=NO_DATABASE, lease_s=30.0),
        executor=pool,
        spool=spool,
        run_in_thread=pool.run,
        breaker=breaker,
        failures=UploadFailures(breaker, backoff, store_name="store", clock=clock, emit=Recorder()),
        clock=clock,
        emit=Recorder(),
        attempt_timeout_s=300.0,
        lease_s=30.0,
    )
    attempts = [new_attempt() for _ in range(3)]
    assert list(reaction.admit(attempts)) == attempts
    assert not reaction.is_held_up

    for attempt in attempts[:2]:
        breaker.failed(clock.now(), attempt.upload.id)
    assert reaction.is_held_up
    assert list(reaction.admit(attempts)) == []

    clock.advance(1.0)
    assert list(reaction.admit(attempts)) == attempts[:1]
    assert not reaction.is_held_up  # False while the probe is in flight: no other row is claimed then
    assert list(reaction.admit(attempts[1:])) == []

    assert reaction.hand_back(attempts[0]).verdict is Verdict.DEFERRED  # the probe ends without a start
    assert list(reaction.admit(attempts[1:])) == attempts[1:2]
