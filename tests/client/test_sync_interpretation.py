"""However a blocking block of `interpretation` is left, its run ends as the block did, and no other run is affected."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from uuid import UUID, uuid4

import pytest
from support.process import python
from support.rows import Rows, rows_of

from reactor import SyncReactorClient
from reactor.core.errors import InterpretationInProgress, InterpretationTimeout

PATIENCE_S = 30.0


@pytest.fixture
def client(migrated_url: str) -> Iterator[SyncReactorClient]:
    with SyncReactorClient(migrated_url) as client:
        yield client


@pytest.fixture
def source(rows: Rows) -> UUID:
    return rows.source(uuid4(), status="uploaded")


def wait_for_locked_session(rows: Rows) -> None:
    """Wait until a session of this database waits for a lock."""
    query = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    deadline = time.monotonic() + PATIENCE_S
    while not rows.all(query):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_of(rows: Rows, run: UUID) -> tuple[str, str | None]:
    row = rows.run_row(run)
    return row.status, row.error_message


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (ValueError("a"), "ValueError: a"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(3), "SystemExit: 3"),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(), "StopIteration"),
        (asyncio.CancelledError(), "CancelledError"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "ExceptionGroup: two (2 sub-exceptions)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_fails_its_run_alone_and_propagates_unchanged(
    client: SyncReactorClient, rows: Rows, source: UUID, problem: BaseException, message: str
) -> None:
    caught: BaseException | None = None
    with client.interpretation(rows.source(uuid4(), status="uploaded")) as other:
        try:
            with client.interpretation(source) as run:
                raise problem  # noqa: TRY301  # on purpose
        except BaseException as error:  # noqa: BLE001  # compared below
            caught = error
        assert caught is problem
        assert caught.__cause__ is None
        assert not hasattr(caught, "__notes__")
        assert end_of(rows, run.id) == ("failed", message)
        assert client.usage(uuid4()).plan == "free"
    assert end_of(rows, other.id) == ("completed", None)


def streamed(client: SyncReactorClient, source: UUID, runs: list[UUID]) -> Generator[int, None, None]:
    with client.interpretation(source) as run:
        runs.append(run.id)
        yield from range(100)


def test_a_generator_that_is_closed_early_fails_its_run_and_no_other(
    client: SyncReactorClient, rows: Rows, source: UUID
) -> None:
    """A web server closes a streamed answer when its reader disconnects."""
    runs: list[UUID] = []
    with client.interpretation(rows.source(uuid4(), status="uploaded")) as other:
        for ending in ("close", "drop", "another thread"):
            stream = streamed(client, source, runs)
            assert next(stream) == 0
            if ending == "close":
                contextlib.closing(stream).__exit__(None, None, None)
            elif ending == "another thread":
                thread = Thread(target=contextlib.closing(stream).__exit__, args=(None, None, None))
                thread.start()
                thread.join(PATIENCE_S)
            del stream
            assert end_of(rows, runs[-1]) == ("failed", "GeneratorExit")
    assert end_of(rows, other.id) == ("completed", None)
    assert list(streamed(client, source, runs)) == list(range(100))
    assert end_of(rows, runs[-1]) == ("completed", None)


def test_an_exception_of_a_lost_block_propagates_unchanged_with_a_note(client: SyncReactorClient, source: UUID) -> None:
    with pytest.raises(ValueError, match="mine") as caught, client.interpretation(source, timeout_s=0.2) as run:
        deadline = time.monotonic() + PATIENCE_S
        while run.lost is None and time.monotonic() < deadline:
            time.sleep(0.01)
        raise ValueError("mine")
    assert ["INTERPRETATION_TIMEOUT" in note for note in caught.value.__notes__] == [True]


def test_nested_runs_and_runs_of_many_threads_end_independently(
    client: SyncReactorClient, rows: Rows, migrated_url: str
) -> None:
    sources = [(rows.source(uuid4(), status="uploaded"), rows.source(uuid4(), status="uploaded")) for _ in range(16)]

    def work(number: int) -> str:
        outer, inner = sources[number]
        with (
            client.interpretation(outer, heartbeat_timeout_s=1.5),
            pytest.raises(InterpretationTimeout),
            client.interpretation(inner, timeout_s=0.2) as run,
        ):
            while True:
                run.check()
                time.sleep(0.01)
        if number % 4 == 0:
            with client.interpretation(outer):
                raise SystemExit(number)
        return "done"

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(work, number) for number in range(16)]
        failures = [type(future.exception()).__name__ for future in futures]
    assert failures == ["SystemExit", "NoneType", "NoneType", "NoneType"] * 4
    query = "select status, count(*) as n from public.interpretation_runs group by 1 order by 1"
    assert [tuple(each) for each in rows.all(query)] == [("completed", 16), ("failed", 20)]


def test_a_block_is_entered_once(client: SyncReactorClient, source: UUID) -> None:
    block = client.interpretation(source)
    with block:
        with pytest.raises(RuntimeError, match="entered once"):
            block.__enter__()
        with pytest.raises(InterpretationInProgress):
            client.interpretation(source).__enter__()


def test_a_client_that_is_closed_during_a_run_closes_after_it(
    client: SyncReactorClient, rows: Rows, source: UUID
) -> None:
    with client.interpretation(source, heartbeat_timeout_s=0.9) as run:
        client.close()
        time.sleep(1.2)  # longer than the heartbeat timeout
        run.check()
    assert end_of(rows, run.id) == ("completed", None)
    assert client._calls.loop_thread is None


# interrupted processes


def interrupted(script: str, *arguments: str, signals: int = signal.SIGINT) -> str:
    """Run a program until it prints a line, send it a signal, and return what it then printed."""
    process = python(script, *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signals)
    printed, errors = process.communicate(timeout=PATIENCE_S)
    return printed + errors


def test_ctrl_c_fails_the_run(migrated_url: str, rows: Rows, source: UUID) -> None:
    output = interrupted(_INTERRUPTED, migrated_url, str(source))
    assert output.strip().endswith("KeyboardInterrupt")
    assert end_of(rows, rows.one("select id from public.interpretation_runs").id) == ("failed", "KeyboardInterrupt")


_INTERRUPTED = """
import sys, time
from reactor import SyncReactorClient

with SyncReactorClient(sys.argv[1]).interpretation(sys.argv[2]):
    print("running", flush=True)
    time.sleep(60)
"""


def test_ctrl_c_while_a_run_begins_leaves_no_running_run(migrated_url: str, rows: Rows, source: UUID) -> None:
    """The source is locked, so `begin` waits; it goes on after the lock is released."""
    with rows_of(migrated_url) as other, other.conn.transaction():
        other.all("select from public.sources for update")
        process = python(_BEGINNING, migrated_url, str(source))
        wait_for_locked_session(rows)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)  # it waits for `begin`, to fail the run that begins
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert (printed, errors.strip().splitlines()[-1]) == ("", "KeyboardInterrupt")
    assert [row.status for row in rows.all("select status from public.interpretation_runs")] == ["failed"]


_BEGINNING = """
import sys
from reactor import SyncReactorClient

with SyncReactorClient(sys.argv[1]).interpretation(sys.argv[2]):
    print("entered")
"""


def test_a_worker_of_gunicorn_that_must_exit_fails_its_runs(migrated_url: str, rows: Rows) -> None:
    """gunicorn's handler of SIGTERM or of a timeout raises SystemExit in the main thread; requests run in threads."""
    sources = [str(rows.source(uuid4(), status="uploaded")) for _ in range(2)]
    output = interrupted(_WORKER, migrated_url, *sources, signals=signal.SIGTERM)
    assert output == "finished\n"
    ended = rows.all("select status, error_message as message from public.interpretation_runs order by 1")
    assert [tuple(each) for each in ended] == [("completed", None), ("failed", "SystemExit: 0")]


_WORKER = """
import signal, sys, threading, time
from reactor import SyncReactorClient

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
client = SyncReactorClient(sys.argv[1])

def request(begun):
    with client.interpretation(sys.argv[2]):
        begun.set()
        time.sleep(1)
    print("finished", flush=True)

begun = threading.Event()
threading.Thread(target=request, args=(begun,)).start()
begun.wait()
with client.interpretation(sys.argv[3]):
    print("running", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("leaves", ["sys.exit()", "os._exit(0)", "raise KeyError"])
def test_a_fork_in_a_block_leaves_the_parents_run(migrated_url: str, rows: Rows, source: UUID, leaves: str) -> None:
    process = python(_FORKING.replace("LEAVE", leaves), migrated_url, str(source))
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert printed.split() == ["child", "free", "parent", "free"]
    assert errors == "" or leaves == "raise KeyError"
    row = rows.one("select status, heartbeat_at > started_at as has_beaten from public.interpretation_runs")
    assert tuple(row) == ("completed", True)


_FORKING = """
import os, sys, time, uuid
from reactor import SyncReactorClient

client = SyncReactorClient(sys.argv[1])
with client.interpretation(sys.argv[2], heartbeat_timeout_s=0.6) as run:
    if (pid := os.fork()) == 0:
        print("child", client.usage(uuid.uuid4()).plan, flush=True)
        LEAVE
    os.waitpid(pid, 0)
    time.sleep(1)
    run.check()
    print("parent", client.usage(uuid.uuid4()).plan)
"""


def test_a_fork_while_other_threads_call_does_not_hang(migrated_url: str) -> None:
    process = python(_BUSY_FORKING, migrated_url)
    printed, errors = process.communicate(timeout=PATIENCE_S)
    assert (printed.split(), errors) == (["free"] * 10, "")


_BUSY_FORKING = """
import os, sys, threading, uuid
from reactor import SyncReactorClient

client = SyncReactorClient(sys.argv[1])
is_over = threading.Event()

def call():
    while not is_over.is_set():
        client.usage(uuid.uuid4())

threads = [threading.Thread(target=call) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(10):
    if (pid := os.fork()) == 0:
        print(client.usage(uuid.uuid4()).plan, flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
is_over.set()
for thread in threads:
    thread.join()
"""
