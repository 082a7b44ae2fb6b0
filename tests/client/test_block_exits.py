"""However a block of `interpretation` is left, its run ends as the block did, and no other task is cancelled.

The tests of asyncio's task groups cite cpython gh-116720, those of closed generators anyio#471.
"""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID, uuid4

import anyio
import pytest
from support.process import python
from support.rows import Rows

from reactor import ReactorClient
from reactor.core.errors import InterpretationTimeout

PATIENCE_S = 30.0
SHORT_S = 0.3


@pytest.fixture
async def client(migrated_url: str) -> AsyncIterator[ReactorClient]:
    async with ReactorClient(migrated_url) as client:
        yield client


@pytest.fixture
def source(rows: Rows) -> UUID:
    return rows.source(uuid4(), status="uploaded")


def end_of(rows: Rows, run: UUID) -> tuple[str, str | None]:
    row = rows.run_row(run)
    return row.status, row.error_message


async def ended(rows: Rows, source: UUID) -> tuple[str, str | None]:
    """Wait until the only run of a source has ended."""
    query = "select status, error_message as message from public.interpretation_runs where source_id = %s"
    with anyio.fail_after(PATIENCE_S):
        while (row := rows.one(query, (source,))).status == "running":  # noqa: ASYNC110  # another connection ends it
            await anyio.sleep(0.01)
    return row.status, row.message


# exceptions


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (ValueError("a"), "ValueError: a"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(), "StopIteration"),
        (StopAsyncIteration(), "StopAsyncIteration"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError("slow"), "TimeoutError: slow"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "ExceptionGroup: two (2 sub-exceptions)"),
        (BaseExceptionGroup("all", [SystemExit()]), "BaseExceptionGroup: all (1 sub-exception)"),
        (Exception("NUL \0, surrogate \ud800"), "Exception: NUL , surrogate ?"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_any_exception_fails_the_run_and_propagates_unchanged(
    client: ReactorClient, rows: Rows, source: UUID, problem: BaseException, message: str
) -> None:
    caught: BaseException | None = None
    try:
        async with client.interpretation(source) as run:
            raise problem  # noqa: TRY301  # on purpose
    except BaseException as error:  # noqa: BLE001  # compared below
        caught = error
    assert caught is problem
    assert caught.__cause__ is None
    assert not hasattr(caught, "__notes__")
    assert end_of(rows, run.id) == ("failed", message)


async def fail_in_task_group() -> str:
    """Return the message of the exception that a child task raised, which this function handles."""

    async def fail() -> None:
        raise ValueError("in a child")

    message = ""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(asyncio.sleep(PATIENCE_S))
    except* ValueError as group:
        message = str(group.exceptions[0])
    return message


async def test_a_failed_task_group_that_the_block_handles_completes_the_run(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    async def work() -> UUID:
        async with client.interpretation(source) as run:
            assert await fail_in_task_group() == "in a child"
            await asyncio.sleep(0)
        return run.id

    for _ in range(3):
        assert end_of(rows, await asyncio.create_task(work())) == ("completed", None)


async def test_a_lost_run_raises_its_reason_also_after_a_failed_task_group(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    """On Python 3.11 and 3.12, the task group leaves one cancellation more in its task's count."""

    async def work() -> None:
        async with client.interpretation(source, timeout_s=SHORT_S):
            await fail_in_task_group()
            await asyncio.sleep(PATIENCE_S)

    with pytest.raises(InterpretationTimeout):
        await asyncio.create_task(work())


async def test_a_failed_task_group_that_the_block_does_not_handle_is_raised_unchanged(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    runs: list[UUID] = []

    async def fail() -> None:
        raise ValueError("in a child")

    async def work() -> None:
        async with client.interpretation(source) as run, asyncio.TaskGroup() as tasks:
            runs.append(run.id)
            tasks.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.create_task(work())
    assert [str(each) for each in caught.value.exceptions] == ["in a child"]
    assert end_of(rows, runs[0])[0] == "failed"


# generators


async def streamed(client: ReactorClient, source: UUID, runs: list[UUID]) -> AsyncIterator[int]:
    async with client.interpretation(source) as run:
        runs.append(run.id)
        for token in range(100):
            await asyncio.sleep(0)
            yield token


async def test_a_generator_that_is_dropped_fails_its_run_and_cancels_nothing(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    runs: list[UUID] = []

    async def consume() -> str:
        async for token in streamed(client, source, runs):
            if token == 2:
                break
        gc.collect()
        await ended(rows, source)
        await asyncio.sleep(0.05)
        task = asyncio.current_task()
        assert task is not None
        return f"{task.cancelling()} cancellations"

    bystander = asyncio.create_task(asyncio.sleep(PATIENCE_S))
    assert await asyncio.create_task(consume()) == "0 cancellations"
    assert end_of(rows, runs[0]) == ("failed", "GeneratorExit")
    assert not bystander.done()
    bystander.cancel()


async def test_a_generator_that_is_closed_in_another_task_fails_its_run(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    runs: list[UUID] = []
    stream = streamed(client, source, runs)
    assert await anext(stream) == 0
    await asyncio.create_task(stream.aclose())  # type: ignore[attr-defined]  # a generator has it
    assert end_of(rows, runs[0]) == ("failed", "GeneratorExit")


async def test_a_generator_that_ends_completes_its_run(client: ReactorClient, rows: Rows, source: UUID) -> None:
    runs: list[UUID] = []
    assert [token async for token in streamed(client, source, runs)] == list(range(100))
    assert end_of(rows, runs[0]) == ("completed", None)


async def test_a_lost_run_cancels_no_consumer_of_its_generator_but_the_generator(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    async def stream() -> AsyncIterator[str]:
        async with client.interpretation(source, timeout_s=SHORT_S) as run:
            yield "a token"
            while run.lost is None:  # noqa: ASYNC110  # a worker that looks now and then
                await asyncio.sleep(0.01)
            yield "another token"
            await asyncio.sleep(PATIENCE_S)

    async def outer() -> AsyncIterator[str]:
        async for token in stream():
            yield token

    tokens = outer()
    assert await anext(tokens) == "a token"
    await ended(rows, source)
    await asyncio.sleep(SHORT_S)  # time in which the heartbeat is refused
    assert await anext(tokens) == "another token"
    with anyio.fail_after(PATIENCE_S), pytest.raises(InterpretationTimeout):
        await anext(tokens)


async def test_a_lost_run_cancels_a_generator_that_waits(client: ReactorClient, rows: Rows, source: UUID) -> None:
    async def stream() -> AsyncIterator[str]:
        async with client.interpretation(source, timeout_s=SHORT_S):
            yield "a token"
            await asyncio.sleep(PATIENCE_S)

    with anyio.fail_after(PATIENCE_S / 2), pytest.raises(InterpretationTimeout):
        async for _ in stream():
            pass
    assert rows.one("select error_code as code from public.interpretation_runs").code == "INTERPRETATION_TIMEOUT"


# a lost run


@asynccontextmanager
async def wrapped(client: ReactorClient, source: UUID) -> AsyncIterator[None]:
    async with client.interpretation(source, timeout_s=SHORT_S):
        yield


async def in_context_manager(client: ReactorClient, source: UUID) -> None:
    async with wrapped(client, source):
        await asyncio.sleep(PATIENCE_S)


async def in_exit_stack(client: ReactorClient, source: UUID) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(client.interpretation(source, timeout_s=SHORT_S))
        await asyncio.sleep(PATIENCE_S)


async def in_anyio_task_group(client: ReactorClient, source: UUID) -> None:
    async with wrapped(client, source), anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, PATIENCE_S)


async def in_task_group(client: ReactorClient, source: UUID) -> None:
    async with client.interpretation(source, timeout_s=SHORT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(PATIENCE_S))


async def in_timeout(client: ReactorClient, source: UUID) -> None:
    async with client.interpretation(source, timeout_s=SHORT_S), asyncio.timeout(PATIENCE_S):
        await asyncio.sleep(PATIENCE_S)


async def in_scopes(client: ReactorClient, source: UUID) -> None:
    with anyio.move_on_after(PATIENCE_S):
        async with wrapped(client, source):
            with anyio.CancelScope():
                await anyio.sleep(PATIENCE_S)


@pytest.mark.parametrize(
    "block", [in_context_manager, in_exit_stack, in_anyio_task_group, in_task_group, in_timeout, in_scopes]
)
async def test_a_lost_run_cancels_a_block_inside_any_context(
    client: ReactorClient, source: UUID, block: Callable[[ReactorClient, UUID], Awaitable[None]]
) -> None:
    async def checked() -> int:
        with anyio.fail_after(PATIENCE_S / 2), pytest.raises(InterpretationTimeout):
            await block(client, source)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert await asyncio.create_task(checked()) == 0


async def test_an_exception_of_a_lost_block_propagates_unchanged_with_a_note(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    problem = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with client.interpretation(source, timeout_s=SHORT_S):
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                raise problem from None
    assert caught.value is problem
    assert ["INTERPRETATION_TIMEOUT" in note for note in problem.__notes__] == [True]


async def test_check_raises_the_reason_in_a_block_that_ignores_its_cancellation(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    with pytest.raises(InterpretationTimeout) as caught:
        async with client.interpretation(source, timeout_s=SHORT_S) as run:
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                run.check()
    assert caught.value is run.lost
    assert not hasattr(caught.value, "__notes__")


async def test_a_task_that_is_cancelled_as_its_run_is_lost_stays_cancelled(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    async def work() -> None:
        async with client.interpretation(source, timeout_s=SHORT_S):
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                task.cancel()  # another cancellation, by its host
                await asyncio.sleep(PATIENCE_S)

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


# nested and parallel runs


async def test_the_loss_of_an_outer_run_fails_the_inner_run(client: ReactorClient, rows: Rows, source: UUID) -> None:
    inner_source = rows.source(uuid4(), status="uploaded")
    with anyio.fail_after(PATIENCE_S), pytest.raises(InterpretationTimeout) as caught:
        async with (
            client.interpretation(source, timeout_s=SHORT_S) as outer,
            client.interpretation(inner_source) as inner,
        ):
            await asyncio.sleep(PATIENCE_S)
    assert caught.value is outer.lost
    assert inner.lost is None
    assert end_of(rows, inner.id) == ("failed", "CancelledError")


async def test_the_loss_of_an_inner_run_leaves_the_outer_run(client: ReactorClient, rows: Rows, source: UUID) -> None:
    inner_source = rows.source(uuid4(), status="uploaded")
    async with client.interpretation(source) as outer:
        with anyio.fail_after(PATIENCE_S), pytest.raises(InterpretationTimeout):
            async with client.interpretation(inner_source, timeout_s=SHORT_S):
                await asyncio.sleep(PATIENCE_S)
        await asyncio.sleep(0.01)
    assert end_of(rows, outer.id) == ("completed", None)


async def test_parallel_runs_end_independently(client: ReactorClient, rows: Rows) -> None:
    sources = [rows.source(uuid4(), status="uploaded") for _ in range(30)]

    async def work(number: int) -> UUID:
        async with client.interpretation(sources[number], heartbeat_timeout_s=1) as run:
            await asyncio.sleep(0.01 * number)
            if number % 3 == 1:
                raise ValueError(str(number))
            if number % 3 == 2:
                await client.interpretation(sources[number]).__aenter__()  # refused: the source has a run
        return run.id

    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(*map(work, range(30)), return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["UUID", "ValueError", "InterpretationInProgress"] * 10
    ended = rows.all("select status, count(*) as n from public.interpretation_runs group by 1 order by 1")
    assert [tuple(each) for each in ended] == [("completed", 10), ("failed", 20)]


async def test_runs_end_in_another_order_than_they_began(client: ReactorClient, rows: Rows, source: UUID) -> None:
    other = rows.source(uuid4(), status="uploaded")
    first, second = client.interpretation(source), client.interpretation(other)
    run, other_run = await first.__aenter__(), await second.__aenter__()
    await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)
    assert (end_of(rows, run.id), end_of(rows, other_run.id)) == (("completed", None), ("completed", None))


async def test_a_block_is_entered_once(client: ReactorClient, source: UUID) -> None:
    block = client.interpretation(source)
    async with block:
        with pytest.raises(RuntimeError, match="entered once"):
            await block.__aenter__()


# cancelled hosts


@pytest.mark.parametrize("kind", ["asyncio.timeout", "wait_for", "anyio", "cancel"])
async def test_a_cancelled_host_fails_its_run(client: ReactorClient, rows: Rows, source: UUID, kind: str) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with client.interpretation(source):
            begun.set()
            await asyncio.sleep(PATIENCE_S)

    async def bounded() -> None:
        if kind == "asyncio.timeout":
            async with asyncio.timeout(SHORT_S):
                await work()
        elif kind == "wait_for":
            await asyncio.wait_for(work(), SHORT_S)
        elif kind == "anyio":
            with anyio.fail_after(SHORT_S):
                await work()
        else:
            task = asyncio.create_task(work())
            await begun.wait()
            task.cancel()
            await task

    with pytest.raises((TimeoutError, asyncio.CancelledError)):
        await bounded()
    status, message = await ended(rows, source)
    assert (status, str(message)[:14]) == ("failed", "CancelledError")


async def test_a_host_that_is_cancelled_again_and_again_still_fails_its_run(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with client.interpretation(source):
            begun.set()
            await asyncio.sleep(PATIENCE_S)

    task = asyncio.create_task(work())
    await begun.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    assert task.cancelled()
    assert await ended(rows, source) == ("failed", "CancelledError")


async def test_a_host_that_is_cancelled_as_its_run_completes_has_completed_it(
    client: ReactorClient, rows: Rows, source: UUID
) -> None:
    leaving = asyncio.Event()

    async def work() -> None:
        async with client.interpretation(source):
            leaving.set()

    with rows.conn.transaction():
        rows.all("select from public.sources for update")
        task = asyncio.create_task(work())
        await asyncio.sleep(0.05)  # `begin` waits for the lock
    await leaving.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended(rows, source) == ("completed", None)


async def test_a_host_that_is_cancelled_as_its_run_begins_leaves_no_running_run(
    client: ReactorClient, rows: Rows
) -> None:
    async def work(source: UUID) -> None:
        async with client.interpretation(source):
            await asyncio.sleep(PATIENCE_S)

    await client.usage(uuid4())
    for delay in range(12):
        task = asyncio.create_task(work(rows.source(uuid4(), status="uploaded")))
        for _ in range(delay):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert rows.all("select from public.interpretation_runs where status = 'running'") == []


# processes


def test_ctrl_c_fails_the_run(migrated_url: str, rows: Rows, source: UUID) -> None:
    process = python(_INTERRUPTED, migrated_url, str(source))
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert errors.strip().endswith("KeyboardInterrupt")
    assert end_of(rows, rows.one("select id from public.interpretation_runs").id)[0] == "failed"


_INTERRUPTED = """
import asyncio, sys
from reactor import ReactorClient

async def main():
    async with ReactorClient(sys.argv[1]) as client, client.interpretation(sys.argv[2]):
        print("running", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_fork_uses_no_connection_of_its_parent_and_leaves_the_parents_run(
    migrated_url: str, rows: Rows, source: UUID
) -> None:
    process = python(_FORKING, migrated_url, str(source))
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert (printed.split(), errors) == (["child", "free", "parent", "free"], "")
    assert process.returncode == 0
    row = rows.one("select status, heartbeat_at > started_at as has_beaten from public.interpretation_runs")
    assert tuple(row) == ("completed", True)


_FORKING = """
import asyncio, os, sys, uuid
from reactor import ReactorClient

async def main(client, source):
    try:
        async with client.interpretation(source, heartbeat_timeout_s=0.6):
            if (pid := os.fork()) == 0:
                in_child(client)
                sys.exit()      # leaves the block, which is the parent's run
            assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
            await asyncio.sleep(1)
            print("parent", (await client.usage(uuid.uuid4())).plan, flush=True)
    except SystemExit:
        os._exit(0)             # in the child: the event loop is the parent's
    await client.aclose()

def in_child(client):
    async def ask():
        print("child", (await client.usage(uuid.uuid4())).plan, flush=True)
        await client.aclose()
    asyncio.run(ask())

asyncio.run(main(ReactorClient(sys.argv[1]), sys.argv[2]))
"""
