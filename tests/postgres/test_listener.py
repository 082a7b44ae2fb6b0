"""The listener receives every notification in order, and notices when its connection ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from anyio import Event, create_task_group, fail_after
from anyio.lowlevel import checkpoint
from support.servers.proxy import proxied

from reactor.core.errors import DatabaseUnavailable
from reactor.postgres import listener
from reactor.postgres.listener import Listener

NOTIFICATIONS = 20_000
SYNCS = 100


class Received:
    """The notifications that one listener received, and the reason why it ended."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.texts: list[str] = []
        self.reason = ""
        self.ended = Event()
        self.on_text: Callable[[], None] = lambda: None
        self._more = Event()

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.on_text()
        self._more.set()

    async def wait_for(self, count: int) -> None:
        with fail_after(30):
            while len(self.texts) < count:
                await self._more.wait()
                self._more = Event()


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Received]:
    received, live = Received(Listener(url)), Event()

    async def listen() -> None:
        try:
            await received.listener.listen(live.set, {"odd Channel": received.add})
        except DatabaseUnavailable as error:
            received.reason = str(error)
        received.ended.set()

    async with create_task_group() as tasks:
        tasks.start_soon(listen)
        with fail_after(30):
            await live.wait()
        yield received
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def notifying(url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        yield conn


async def test_a_flood_is_received_completely_and_in_order_while_other_tasks_run(database_url: str) -> None:
    turns, turns_at = 0, list[int]()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with listening(database_url) as received, notifying(database_url) as conn, create_task_group() as tasks:
        tasks.start_soon(count_turns)
        received.on_text = lambda: turns_at.append(turns)
        await conn.execute(f"select pg_notify('odd Channel', n::text) from generate_series(1, {NOTIFICATIONS}) as n")
        await received.wait_for(NOTIFICATIONS)
        tasks.cancel_scope.cancel()
    assert turns_at[0] < turns_at[-1]
    assert received.texts == [str(n) for n in range(1, NOTIFICATIONS + 1)]


async def test_a_sync_is_no_transaction(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, all_sent = 0, Event()
    read_once = listener.Reader.read_once

    def sync_again(reader: listener.Reader) -> bool:
        """Read, and send the next Sync when the server has answered the previous Sync."""
        nonlocal sent
        has_read = read_once(reader)
        if not reader.awaits_sync and sent < SYNCS:
            sent += 1
            reader.send_sync()
        elif not reader.awaits_sync:
            all_sent.set()
        return has_read

    monkeypatch.setattr(listener.Reader, "read_once", sync_again)
    async with notifying(database_url) as conn:
        before = await transactions(conn)
        async with listening(database_url) as received:
            with fail_after(30):
                await all_sent.wait()
            await conn.execute("select pg_notify('odd Channel', 'after the syncs')")
            await received.wait_for(1)
            assert not received.ended.is_set()
        # after a session has ended, the statistics include all its transactions
        await conn.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where application_name = 'reactor-listen' and datname = current_database()"
        )
        assert await transactions(conn) - before < SYNCS / 4
    assert received.texts == ["after the syncs"]


async def transactions(conn: psycopg.AsyncConnection) -> int:
    row = await (
        await conn.execute(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def test_an_ended_session_is_noticed_immediately(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SYNC_INTERVAL_S", 600.0)
    async with listening(database_url) as received, notifying(database_url) as conn:
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor-listen'"
        )
        with fail_after(30):
            await received.ended.wait()
    assert received.reason


async def test_an_aborted_connection_ends(database_url: str) -> None:
    aborted, live = Listener(database_url), Event()

    async def listen() -> None:
        with pytest.raises(DatabaseUnavailable):
            await aborted.listen(live.set, {"c": _fail})

    with fail_after(30):
        async with create_task_group() as tasks:
            tasks.start_soon(listen)
            await live.wait()
            aborted.abort()


def _fail(text: str) -> None:
    raise AssertionError(f"received {text!r}, although nothing was notified")


async def test_a_slow_network_is_not_taken_for_a_silent_one(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SYNC_INTERVAL_S", 0.5)
    async with proxied(database_url) as proxy, listening(proxy.url) as received, notifying(database_url) as conn:
        proxy.delay_s = 0.1
        for n in range(3):
            await conn.execute("select pg_notify('odd Channel', 'late')")
            await received.wait_for(n + 1)
        assert not received.ended.is_set()
        proxy.blackhole()
        with fail_after(30):
            await received.ended.wait()
    assert received.reason == "the server has been silent for 0.5 s"


async def test_an_error_of_a_handler_is_raised_by_listen(database_url: str) -> None:
    live = Event()

    def fail(_text: str) -> None:
        raise ZeroDivisionError

    async def notify() -> None:
        await live.wait()
        async with notifying(database_url) as conn:
            await conn.execute("select pg_notify('c', '')")

    with fail_after(30):
        async with create_task_group() as tasks:
            tasks.start_soon(notify)
            with pytest.raises(ZeroDivisionError):
                await Listener(database_url).listen(live.set, {"c": fail})


async def test_a_broken_socket_is_not_watched_once_its_descriptor_is_free(database_url: str) -> None:
    """The next socket may get the same descriptor. Its data must not call the reader of the broken socket."""
    loop = asyncio.get_running_loop()
    async with listening(database_url) as received, notifying(database_url) as conn:
        watched = received.listener.connection
        assert watched is not None
        descriptor = watched.fileno()
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor-listen'"
        )
        with fail_after(30):
            while not watched.closed:
                await checkpoint()
        assert not loop.remove_reader(descriptor)
        await received.ended.wait()
