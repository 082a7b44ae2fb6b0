"""Every connection has the reactor's own settings, whatever a database, a role, a URL or a variable sets."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from psycopg import sql
from support.servers.pgbouncer import running_pgbouncer

from reactor.core.errors import DatabaseRefused
from reactor.postgres.admin import inspecting
from reactor.postgres.connection import ConnectionPool, DedicatedConnection, connected
from reactor.postgres.migrate import migrate

_NAMES = (
    "search_path", "datestyle", "intervalstyle", "timezone", "client_encoding", "standard_conforming_strings",
    "bytea_output", "row_security", "statement_timeout", "lock_timeout", "transaction_isolation",
    "transaction_read_only",
)  # fmt: skip
_VALUES = (
    "pg_catalog, pg_temp", "ISO, MDY", "postgres", "UTC", "UTF8", "on", "hex", "on", "30s", "10s", "read committed",
    "off",
)  # fmt: skip
_EXPECTED = dict(zip(_NAMES, _VALUES, strict=True))
_READ = "select " + ", ".join(f"pg_catalog.current_setting('{name}')" for name in _NAMES)

_CAREFUL = "-c default_transaction_read_only=off -c statement_timeout=0 -c transaction_timeout=0"

_POOLED = {"transaction_timeout": "5s", "statement_timeout": "500ms"}
"""Behind a pooler, each call begins under these limits, so they can't be as short as 1 ms."""

ODD = {
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Australia/Lord_Howe",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "search_path": '""',
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "50ms",
    "idle_in_transaction_session_timeout": "50ms",
    "transaction_timeout": "1ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "synchronous_commit": "off",
    "client_encoding": "LATIN1",
    "lc_numeric": "C",
    "enable_indexscan": "off",
    "jit": "on",
}


def set_for_database(url: str, settings: dict[str, str]) -> None:
    """Set these settings for all later sessions of the database."""
    with psycopg.connect(url, autocommit=True) as conn:
        database = sql.Identifier(urlsplit(url).path[1:])
        known = {row[0] for row in conn.execute("select name from pg_catalog.pg_settings")}
        for name in settings.keys() & known:
            words = sql.SQL("alter database {} set {} = {}")
            conn.execute(words.format(database, sql.Identifier(name), settings[name]))


@pytest.fixture
def resets(server_url: str) -> Iterator[list[str]]:
    """URLs of databases whose settings are reset after the test, so that other fixtures can read them."""
    urls: list[str] = []
    yield urls
    with psycopg.connect(server_url, autocommit=True) as conn:
        for url in urls:
            conn.execute(sql.SQL("alter database {} reset all").format(sql.Identifier(urlsplit(url).path[1:])))


@pytest.fixture
def odd_url(migrated_url: str, resets: list[str]) -> str:
    """A database that sets everything that the reactor relies on to something else."""
    resets.append(migrated_url)
    set_for_database(migrated_url, ODD)
    return migrated_url


def by_pool(url: str) -> tuple[str, ...]:
    async def ask() -> tuple[str, ...]:
        pool = ConnectionPool(url, size=1)
        await pool.open()
        try:
            [row] = await pool.call(_READ)
        finally:
            await pool.close()
        return tuple(row)

    return asyncio.run(ask())


def by_dedicated_connection(url: str) -> tuple[str, ...]:
    async def ask() -> tuple[str, ...]:
        connection = DedicatedConnection(url)
        try:
            [row] = await connection.call(_READ)
        finally:
            await connection.close()
        return tuple(row)

    return asyncio.run(ask())


def by_command(url: str) -> tuple[str, ...]:
    with connected(url, application_name="test") as conn:
        [row] = conn.run(_READ).fetchall()
        return tuple(row)


CALLS = [by_pool, by_dedicated_connection, by_command]


def settings_seen(call: Callable[[str], tuple[str, ...]], url: str) -> dict[str, str]:
    return dict(zip(_NAMES, call(url), strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_settings_of_the_database_do_not_matter(odd_url: str, call: Callable[[str], tuple[str, ...]]) -> None:
    assert settings_seen(call, odd_url) == _EXPECTED


@pytest.mark.parametrize("name", sorted(ODD))
def test_one_odd_setting_alone_does_not_matter(migrated_url: str, resets: list[str], name: str) -> None:
    resets.append(migrated_url)
    set_for_database(migrated_url, {name: ODD[name]})
    assert settings_seen(by_pool, migrated_url) == _EXPECTED
    with inspecting(migrated_url) as inspector:
        assert inspector.uploads(status=None, user=None, limit=1) == []


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("call", CALLS)
def test_settings_of_the_database_do_not_matter_through_a_pooler(
    odd_url: str, reachable_folder: Path, mode: str, call: Callable[[str], tuple[str, ...]]
) -> None:
    set_for_database(f"{odd_url}?options={quote(_CAREFUL)}", _POOLED)
    with running_pgbouncer(odd_url, reachable_folder, mode=mode) as pooled:
        assert settings_seen(call, pooled) == _EXPECTED


@pytest.mark.parametrize("call", CALLS)
def test_calls_work_through_a_pooler_that_refuses_transactions(
    migrated_url: str, reachable_folder: Path, call: Callable[[str], tuple[str, ...]]
) -> None:
    with running_pgbouncer(migrated_url, reachable_folder, mode="statement") as pooled:
        assert settings_seen(call, pooled)["client_encoding"] == "UTF8"


def test_nothing_is_set_for_the_other_clients_of_a_transaction_pooler(odd_url: str, reachable_folder: Path) -> None:
    with running_pgbouncer(odd_url, reachable_folder, mode="transaction") as pooled:
        by_pool(pooled)
        by_command(pooled)
        with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as other:
            assert other.execute("show bytea_output").fetchone() == ("escape",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGCLIENTENCODING", "LATIN1"),
        ("PGOPTIONS", "-c datestyle=German -c statement_timeout=1ms -c search_path=nowhere"),
        ("PGDATESTYLE", "German"),
        ("PGTZ", "Asia/Kathmandu"),
        ("PGAPPNAME", "another"),
        ("PGCONNECT_TIMEOUT", "1"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_variables_of_libpq_do_not_matter(
    migrated_url: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[str], tuple[str, ...]],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert settings_seen(call, migrated_url) == _EXPECTED


@pytest.mark.parametrize("call", CALLS)
def test_options_in_the_url_do_not_matter(migrated_url: str, call: Callable[[str], tuple[str, ...]]) -> None:
    options = quote("-c datestyle=German -c default_transaction_read_only=on -c search_path=nowhere")
    assert settings_seen(call, f"{migrated_url}?options={options}&client_encoding=LATIN1") == _EXPECTED


def test_migrate_works_whatever_the_database_sets(database_url: str, resets: list[str]) -> None:
    resets.append(database_url)
    set_for_database(database_url, ODD)
    assert migrate(database_url)
    assert migrate(database_url) == []


# text that the database can't store


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "WIN1251", "UTF8"])
def encoded_url(request: pytest.FixtureRequest, server_url: str) -> Iterator[tuple[str, str]]:
    """The URL and the encoding of an empty database."""
    name = sql.Identifier(f"encoded_{request.param.lower()}")
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(
            sql.SQL("create database {} encoding {} locale 'C' template template0").format(name, request.param)
        )
        yield urlsplit(server_url)._replace(path=f"/encoded_{request.param.lower()}").geturl(), request.param
        conn.execute(sql.SQL("drop database {} with (force)").format(name))


_TEXT = "Диск занят \N{SNOWMAN} caf\u00e9 \0 \ud800"


def test_text_that_the_database_cannot_store_is_replaced(encoded_url: tuple[str, str]) -> None:
    url, encoding = encoded_url

    async def ask(*, replaces_text: bool) -> str:
        pool = ConnectionPool(url, size=1, replaces_text=replaces_text)
        await pool.open()
        try:
            [(text, [first])] = await pool.call("select %s::text, %b::text[]", (_TEXT, [_TEXT]))
        finally:
            await pool.close()
        assert text == first
        return str(text)

    assert (
        asyncio.run(ask(replaces_text=True))
        == {
            "LATIN1": "???? ????? ? caf\u00e9 ? ?",
            "SQL_ASCII": "Диск занят \N{SNOWMAN} caf\u00e9 ? ?",
            "WIN1251": "Диск занят ? caf? ? ?",
            "UTF8": "Диск занят \N{SNOWMAN} caf\u00e9 ? ?",
        }[encoding]
    )
    with pytest.raises(DatabaseRefused):
        asyncio.run(ask(replaces_text=False))
