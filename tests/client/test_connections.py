"""Calls wait for a connection as long as the settings say, and errors name what to change."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib.util import find_spec
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from psycopg import sql
from support.rows import Rows
from support.servers.proxy import proxied

from reactor import ReactorClient, SyncReactorClient
from reactor.core.errors import DatabaseForbidden, DatabaseUnavailable, InvalidArgument

CALLS = 200


async def reserve(client: ReactorClient, number: int) -> str:
    """Reserve an upload; return '' or the message of the refusal."""
    try:
        await client.reserve_upload(uuid4(), sha256(str(number).encode()).hexdigest(), 1)
    except DatabaseUnavailable as error:
        return str(error)
    return ""


async def test_parallel_calls_wait_for_a_connection(migrated_url: str, rows: Rows) -> None:
    async with ReactorClient(migrated_url, connections=2) as client:
        assert await asyncio.gather(*(reserve(client, number) for number in range(CALLS))) == [""] * CALLS
        query = (
            "select count(*) as n from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        )
        assert rows.one(query).n == 2


async def test_a_call_that_finds_no_free_connection_names_both_settings(migrated_url: str, rows: Rows) -> None:
    async with ReactorClient(migrated_url, connections=2, wait_s=0.2) as client:
        source = (await client.reserve_upload(uuid4(), "0" * 64, 1)).source_id
        with rows.conn.transaction():
            rows.all("select from public.sources for update")
            blocked = [asyncio.create_task(client.complete_upload(source, "s3://x")) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(DatabaseUnavailable) as caught:
                await client.usage(uuid4())
        await asyncio.gather(*blocked)
        assert (await client.usage(uuid4())).plan == "free"
    assert str(caught.value).startswith("the client's connections (connections=2) were busy for 0.2 s: raise ")
    assert "`wait_s`" in str(caught.value)
    assert caught.value.retryable


async def test_a_call_that_is_cancelled_while_it_waits_takes_no_connection(migrated_url: str, rows: Rows) -> None:
    async with ReactorClient(migrated_url, connections=1) as client:
        source = (await client.reserve_upload(uuid4(), "0" * 64, 1)).source_id
        with rows.conn.transaction():
            rows.all("select from public.sources for update")
            blocked = asyncio.create_task(client.complete_upload(source, "s3://x"))
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.usage(uuid4()), 0.1)
        await blocked
        assert (await client.usage(uuid4())).plan == "free"


@pytest.mark.parametrize("setting", [{"connections": 0}, {"wait_s": 0}, {"wait_s": float("inf")}])
def test_a_wrong_setting_is_named_by_both_constructors(setting: dict[str, float]) -> None:
    for kind in (ReactorClient, SyncReactorClient):
        with pytest.raises(InvalidArgument) as caught:
            kind("", **setting)  # type: ignore[arg-type]  # on purpose
        assert caught.value.details == {"argument": next(iter(setting))}


# the role of the app


@pytest.fixture
def role(rows: Rows) -> Iterator[str]:
    """A role that may log in, and has no privileges of its own."""
    name = f"app_{uuid4().hex[:12]}"
    rows.run(sql.SQL("create role {} login password 'secret'").format(sql.Identifier(name)))
    yield name
    rows.run(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
    rows.run(sql.SQL("drop role {}").format(sql.Identifier(name)))


async def test_a_role_without_privileges_is_forbidden_and_told_the_fix(
    migrated_url: str, role: str, rows: Rows
) -> None:
    server = urlsplit(migrated_url)
    url = server._replace(netloc=f"{role}:secret@{server.hostname}:{server.port}").geturl()
    async with ReactorClient(url) as client:
        with pytest.raises(
            DatabaseForbidden, match=r"permission denied for function get_usage: .*may execute"
        ) as caught:
            await client.usage(uuid4())
        assert (caught.value.retryable, caught.value.code) == (False, "DATABASE_FORBIDDEN")
        with pytest.raises(DatabaseForbidden):
            await client.interpretation(uuid4()).__aenter__()

        rows.run(sql.SQL("grant service_role to {}").format(sql.Identifier(role)))
        source = rows.source(uuid4(), status="uploaded")
        async with client.interpretation(source, heartbeat_timeout_s=0.6):
            await asyncio.sleep(0.8)  # its heartbeats are allowed too


async def test_a_database_that_is_away_is_unavailable_to_all_first_calls_at_once(migrated_url: str) -> None:
    """The calls share one attempt to connect; they don't wait for one another's."""
    server = urlsplit(migrated_url)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # the system accepts, and nothing answers
        url = server._replace(netloc=f"a:b@127.0.0.1:{silent.getsockname()[1]}").geturl()
        client = ReactorClient(url)
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*(client.usage(uuid4()) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
    assert "check the client's dsn" in str(outcomes[0])


# event loops and processes


async def test_a_client_refuses_a_second_event_loop(migrated_url: str) -> None:
    async with ReactorClient(migrated_url) as client:

        async def ask() -> None:
            await client.usage(uuid4())

        with pytest.raises(
            RuntimeError, match="another event loop: create one for each event loop, or use SyncReactor"
        ):
            await asyncio.to_thread(asyncio.run, ask())


def test_a_client_works_in_one_event_loop_after_another(migrated_url: str) -> None:
    client = ReactorClient(migrated_url)

    async def ask() -> str:
        plan = (await client.usage(uuid4())).plan
        await client.aclose()
        return plan

    assert [asyncio.run(ask()) for _ in range(3)] == ["free"] * 3


@pytest.mark.parametrize(
    ("patch", "by"),
    [
        ("from gevent import monkey; monkey.patch_all()", "gevent"),
        ("import eventlet; eventlet.monkey_patch()", "eventlet"),
    ],
)
@pytest.mark.parametrize("kind", ["ReactorClient", "SyncReactorClient"])
def test_green_threads_are_refused_with_the_fix(patch: str, by: str, kind: str) -> None:
    if find_spec(by) is None:  # an import here would warn at each fork of later tests
        pytest.skip(f"{by} isn't installed")
    script = (
        f"{patch}\nfrom reactor import {kind}\nfrom reactor.core.errors import ConfigInvalid\n"
        f"try:\n    {kind}('')\nexcept ConfigInvalid as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=50, check=True
    )
    assert done.stdout.startswith(f"{by} has replaced Python's threads and sockets")
    assert "gthread" in done.stdout


def test_gevent_that_patched_nothing_is_no_obstacle(migrated_url: str) -> None:
    pytest.importorskip("gevent.monkey")
    with SyncReactorClient(migrated_url) as client:
        assert client.usage(uuid4()).plan == "free"


async def test_parallel_calls_over_a_slow_network_wait_with_the_default_settings(migrated_url: str) -> None:
    """1 000 calls with a round trip of 50 ms take 12.5 s over 4 connections; this is an eighth of them."""
    async with proxied(migrated_url) as proxy, ReactorClient(proxy.url) as client:
        proxy.delay_s = 0.025
        assert await asyncio.gather(*(reserve(client, number) for number in range(125))) == [""] * 125
