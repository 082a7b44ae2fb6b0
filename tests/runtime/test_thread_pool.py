"""Blocking jobs run in threads: a thread runs many short jobs in turn, slow jobs run concurrently, no job is lost."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from anyio import create_task_group
from attrs import define

from reactor.runtime.executor import Job
from reactor.runtime.thread_pool import ThreadPool

WITHIN_S = 20.0


class Gate:
    """Work that blocks until the gate is opened. Counts the threads that have called it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._entered = threading.Semaphore(0)

    def __call__(self) -> str:
        self._entered.release()
        assert self._open.wait(WITHIN_S)
        return threading.current_thread().name

    def wait_until_entered(self, count: int) -> None:
        for _ in range(count):
            assert self._entered.acquire(timeout=WITHIN_S)

    @property
    def is_entered(self) -> bool:
        return self._entered.acquire(blocking=False)

    def open(self) -> None:
        self._open.set()


@define(kw_only=True, eq=False)
class WorkJob(Job):
    """A job of one tenant that calls `work`."""

    work: Callable[[], Any]
    of: int = 1

    @property
    def tenant(self) -> int:
        return self.of


class Harness:
    """A thread pool, and the jobs that it has reported as started and as ended."""

    def __init__(self, count: int, *, per_tenant: int | None = None, name: str = "test") -> None:
        self.pool = ThreadPool[WorkJob](lambda job: job.work(), count, per_tenant=per_tenant, name=name)
        self.started: list[WorkJob] = []
        self.ended: list[WorkJob] = []

    def submit(self, *works: Callable[[], Any], of: int = 1) -> list[WorkJob]:
        jobs = [WorkJob(work=work, of=of) for work in works]
        self.pool.submit(jobs)
        return jobs

    async def wait_until_ended(self, jobs: Sequence[WorkJob]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not set(jobs) <= set(self.ended):
                await self._progress()

    async def wait_until_started(self, jobs: Sequence[WorkJob]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not set(jobs) <= set(self.started):
                await self._progress()

    async def _progress(self) -> None:
        started, ended = await self.pool.progress()
        assert all(job.began > 0.0 for job in started)
        self.started += started
        assert set(ended) <= set(self.started)
        self.ended += ended


@asynccontextmanager
async def blocked(harness: Harness, gate: Gate, count: int) -> AsyncIterator[list[WorkJob]]:
    """Occupy `count` threads during the block. After it, open the gate and wait until the jobs end."""
    jobs = harness.submit(*[gate] * count)
    await asyncio.to_thread(gate.wait_until_entered, count)
    yield jobs
    gate.open()
    await harness.wait_until_ended(jobs)


def do_nothing() -> None:
    pass


def raise_key_error() -> None:
    raise KeyError("why")


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_a_job_holds_what_its_work_returned_or_raised() -> None:
    harness = Harness(2)
    jobs = harness.submit(lambda: 7, raise_key_error, lambda: 8)
    await harness.wait_until_ended(jobs)
    assert [job.result for job in jobs] == [7, None, 8]
    assert [repr(job.error) for job in jobs] == ["None", "KeyError('why')", "None"]
    assert all(0.0 < job.began <= job.ended for job in jobs)
    assert harness.pool.waiting == 0


async def test_each_of_many_short_jobs_is_done_once_and_reported_once() -> None:
    harness, done = Harness(4), list[int]()
    numbers = range(5_000)
    jobs = [
        job
        for first in range(0, len(numbers), 50)
        for job in harness.submit(*[partial(done.append, number) for number in numbers[first : first + 50]])
    ]
    await harness.wait_until_ended(jobs)
    assert sorted(done) == list(numbers)
    assert len(harness.started) == len(harness.ended) == len(numbers)


async def test_a_job_that_began_is_reported_while_it_runs() -> None:
    harness, gate = Harness(2), Gate()
    first = harness.submit(gate)
    await harness.wait_until_started(first)
    assert harness.ended == []
    second = harness.submit(do_nothing, gate)  # a second thread runs both new jobs, one after the other
    await asyncio.to_thread(gate.wait_until_entered, 2)
    await harness.wait_until_started(second)
    gate.open()
    await harness.wait_until_ended([*first, *second])


async def test_short_jobs_are_reported_although_their_thread_went_on_to_a_job_that_blocks() -> None:
    harness = Harness(1)
    for _ in range(20):
        gate = Gate()
        *short, blocking = harness.submit(*[do_nothing] * 100, gate)
        await harness.wait_until_ended(short)
        gate.open()
        await harness.wait_until_ended([blocking])


async def test_short_jobs_run_while_another_job_blocks() -> None:
    harness = Harness(2)
    for _ in range(3):
        gate = Gate()
        blocking, *short = harness.submit(gate, *[do_nothing] * 200)
        await harness.wait_until_ended(short)
        gate.open()
        await harness.wait_until_ended([blocking])


async def test_jobs_that_block_run_concurrently_up_to_the_number_of_threads() -> None:
    harness, gate = Harness(3), Gate()
    jobs = harness.submit(*[gate] * 5)
    await asyncio.to_thread(gate.wait_until_entered, 3)
    assert not gate.is_entered  # no thread is left for the fourth job
    assert harness.pool.waiting == 2
    gate.open()
    await harness.wait_until_ended(jobs)


async def test_a_tenant_has_no_more_threads_than_its_share_and_others_pass_its_waiting_jobs() -> None:
    harness, gate, other_gate = Harness(4, per_tenant=2), Gate(), Gate()
    first = harness.submit(*[gate] * 6, of=1)
    await asyncio.to_thread(gate.wait_until_entered, 2)
    second = harness.submit(*[other_gate] * 3, of=2)
    await asyncio.to_thread(other_gate.wait_until_entered, 2)
    assert not gate.is_entered
    assert not other_gate.is_entered
    other_gate.open()
    await harness.wait_until_ended(second)
    gate.open()
    await harness.wait_until_ended(first)


async def test_a_call_returns_its_result_and_raises_its_error() -> None:
    pool = Harness(1).pool
    assert await pool.run(lambda: 7) == 7
    with pytest.raises(KeyError, match="why"):
        await pool.run(raise_key_error)


async def test_a_call_runs_although_jobs_block_all_threads_and_its_thread_runs_no_jobs() -> None:
    harness, gate = Harness(2), Gate()
    jobs = harness.submit(*[gate] * 4)
    await asyncio.to_thread(gate.wait_until_entered, 2)
    for number in range(3):
        assert await harness.pool.run(lambda number=number: number) == number  # type: ignore[misc]
    assert not gate.is_entered  # the thread of the calls is idle, but the third job doesn't get this thread
    gate.open()
    await harness.wait_until_ended(jobs)


async def test_a_call_runs_before_waiting_jobs() -> None:
    harness, done = Harness(1), list[str]()
    async with blocked(harness, Gate(), 1):
        waiting = harness.submit(*[lambda: done.append("job")] * 3)
        await harness.pool.run(lambda: done.append("call"))
    await harness.wait_until_ended(waiting)
    assert done == ["call", "job", "job", "job"]


async def test_abandoned_jobs_are_replaced_by_other_jobs_and_not_reported_any_more() -> None:
    """Attempts that hang in the store must not occupy all threads."""
    harness, hanging = Harness(2, per_tenant=2), Gate()
    abandoned = harness.submit(hanging, hanging)
    await asyncio.to_thread(hanging.wait_until_entered, 2)
    assert all(harness.pool.abandon(job) for job in abandoned)
    assert all(job.is_cancelled for job in abandoned)
    async with blocked(harness, Gate(), 2):
        pass
    hanging.open()
    await harness.wait_until_ended(harness.submit(do_nothing))
    assert not set(abandoned) & set(harness.ended)
    assert [job.result for job in abandoned] == [None, None]


async def test_a_job_that_is_abandoned_before_it_was_reported_as_started_is_never_reported() -> None:
    harness, hanging = Harness(1), Gate()
    [abandoned] = harness.submit(hanging)
    await asyncio.to_thread(hanging.wait_until_entered, 1)
    assert harness.pool.abandon(abandoned)
    await harness.wait_until_ended(harness.submit(do_nothing))
    hanging.open()
    assert abandoned not in harness.started


async def test_a_job_that_is_abandoned_before_a_thread_takes_it_does_not_run() -> None:
    harness, done, abandoned = Harness(2), set[int](), set[int]()
    for number in range(100):
        await harness.wait_until_ended(harness.submit(do_nothing))  # leaves an idle thread
        [job] = harness.submit(partial(done.add, number))
        if harness.pool.abandon(job):
            abandoned.add(number)
    await harness.wait_until_ended(harness.submit(do_nothing))
    assert len(done & abandoned) < len(abandoned) / 2  # the thread may start a job before the test abandons the job


async def test_a_waiting_job_begins_in_place_of_an_abandoned_one() -> None:
    harness, hanging = Harness(1), Gate()
    [abandoned] = harness.submit(hanging)
    await asyncio.to_thread(hanging.wait_until_entered, 1)
    waiting = harness.submit(do_nothing)
    assert harness.pool.abandon(abandoned)
    await harness.wait_until_ended(waiting)
    hanging.open()


async def test_a_job_that_is_drained_or_abandoned_before_it_began_never_begins() -> None:
    harness, done = Harness(1), list[str]()
    async with blocked(harness, Gate(), 1):
        first, *others = harness.submit(*[lambda: done.append("late")] * 4)
        assert harness.pool.abandon(first)
        assert not harness.pool.abandon(first)
        assert list(harness.pool.drain()) == others
        assert list(harness.pool.drain()) == []
    await harness.wait_until_ended(harness.submit(do_nothing))
    assert done == []


async def test_a_job_that_has_ended_cannot_be_abandoned_and_is_reported() -> None:
    harness, gate = Harness(1), Gate()
    gate.open()
    [job] = harness.submit(gate)
    while not job.ended:  # blocks the event loop, so the pool can't report the job yet
        pass
    assert not harness.pool.abandon(job)
    assert harness.ended == []
    await harness.wait_until_ended([job])


async def test_a_running_call_can_be_cancelled_by_its_task_group() -> None:
    pool, gate = Harness(1).pool, Gate()
    async with create_task_group() as tasks:
        tasks.start_soon(pool.run, gate)
        await asyncio.to_thread(gate.wait_until_entered, 1)
        tasks.cancel_scope.cancel()
    gate.open()
