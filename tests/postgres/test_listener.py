"""The listening connection by itself: everything is heard, in order, and its end is noticed."""

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

MANY = 20_000
MANY_ASKED = 100


class Heard:
    """What one listening connection heard, and why it ended."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.texts: list[str] = []
        self.reason = ""
        self.ended = Event()
        self.also: Callable[[], None] = lambda: None
        self._more = Event()

    def take(self, _channel: str, text: str) -> None:
        self.texts.append(text)
        self.also()
        self._more.set()

    async def count(self, count: int) -> None:
        with fail_after(30):
            while len(self.texts) < count:
                await self._more.wait()
                self._more = Event()


@asynccontextmanager
async def hearing(url: str) -> AsyncIterator[Heard]:
    heard, live = Heard(Listener(url, ["odd Channel"])), Event()

    async def hear() -> None:
        try:
            await heard.listener.hear(live.set, heard.take)
        except DatabaseUnavailable as error:
            heard.reason = str(error)
        heard.ended.set()

    async with create_task_group() as tasks:
        tasks.start_soon(hear)
        with fail_after(30):
            await live.wait()
        yield heard
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def speaking(url: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        yield conn


async def test_a_flood_is_heard_whole_and_in_order_and_others_have_their_turns(database_url: str) -> None:
    turns, turns_at = 0, list[int]()

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with hearing(database_url) as heard, speaking(database_url) as conn, create_task_group() as tasks:
        tasks.start_soon(count_turns)
        heard.also = lambda: turns_at.append(turns)
        await conn.execute(f"select pg_notify('odd Channel', n::text) from generate_series(1, {MANY}) as n")
        await heard.count(MANY)
        tasks.cancel_scope.cancel()
    assert turns_at[0] < turns_at[-1]
    assert heard.texts == [str(n) for n in range(1, MANY + 1)]


async def test_what_is_asked_of_a_quiet_server_is_no_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, often = 0, Event()
    take = listener._Reader._take_some

    def ask_again(reader: listener._Reader) -> bool:
        """Ask as soon as there is an answer."""
        nonlocal asked
        some = take(reader)
        if not reader._is_asked and asked < MANY_ASKED:
            asked += 1
            reader._ask()
        elif not reader._is_asked:
            often.set()
        return some

    monkeypatch.setattr(listener._Reader, "_take_some", ask_again)
    async with speaking(database_url) as conn:
        before = await transactions(conn)
        async with hearing(database_url) as heard:
            with fail_after(30):
                await often.wait()
            await conn.execute("select pg_notify('odd Channel', 'still heard')")
            await heard.count(1)
            assert not heard.ended.is_set()
        # a session's transactions are counted at the latest as it ends
        await conn.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity"
            " where application_name = 'reactor-listen' and datname = current_database()"
        )
        assert await transactions(conn) - before < MANY_ASKED / 4
    assert heard.texts == ["still heard"]


async def transactions(conn: psycopg.AsyncConnection) -> int:
    row = await (
        await conn.execute(
            "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
        )
    ).fetchone()
    assert row is not None
    return int(row[0])


async def test_an_ended_session_is_noticed_at_once(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "ASK_EVERY_S", 600.0)
    async with hearing(database_url) as heard, speaking(database_url) as conn:
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor-listen'"
        )
        with fail_after(30):
            await heard.ended.wait()
    assert heard.reason


async def test_a_connection_that_is_severed_ends(database_url: str) -> None:
    listening, live = Listener(database_url, ["c"]), Event()

    async def hear() -> None:
        with pytest.raises(DatabaseUnavailable):
            await listening.hear(live.set, _never)

    with fail_after(30):
        async with create_task_group() as tasks:
            tasks.start_soon(hear)
            await live.wait()
            listening.abort()


def _never(channel: str, text: str) -> None:
    raise AssertionError(f"nobody said {text} on {channel}")


async def test_silence_is_told_from_a_long_answer(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow network answers late, again and again; one that lets nothing through doesn't."""
    monkeypatch.setattr(listener, "ASK_EVERY_S", 0.5)
    async with proxied(database_url) as proxy, hearing(proxy.url) as heard, speaking(database_url) as conn:
        proxy.delay_s = 0.1
        for n in range(3):
            await conn.execute("select pg_notify('odd Channel', 'late')")
            await heard.count(n + 1)
        assert not heard.ended.is_set()
        proxy.blackhole()
        with fail_after(30):
            await heard.ended.wait()
    assert heard.reason == "the server has been silent for 0.5 s"


async def test_an_error_of_who_hears_reaches_who_waits(database_url: str) -> None:
    live = Event()

    def break_down(_channel: str, _text: str) -> None:
        raise ZeroDivisionError

    async def speak() -> None:
        await live.wait()
        async with speaking(database_url) as conn:
            await conn.execute("select pg_notify('c', '')")

    with fail_after(30):
        async with create_task_group() as tasks:
            tasks.start_soon(speak)
            with pytest.raises(ZeroDivisionError):
                await Listener(database_url, ["c"]).hear(live.set, break_down)


async def test_what_broke_is_not_watched_once_its_descriptor_is_free(database_url: str) -> None:
    """The next socket to be opened has its number: the loop would hold it to be the one that was closed."""
    loop = asyncio.get_running_loop()
    async with hearing(database_url) as heard, speaking(database_url) as conn:
        watched = heard.listener._conn
        assert watched is not None
        descriptor = watched.fileno()
        await conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'reactor-listen'"
        )
        with fail_after(30):
            while not watched.closed:
                await checkpoint()
        assert not loop.remove_reader(descriptor)
        await heard.ended.wait()
