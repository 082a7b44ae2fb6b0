"""Each error of a call is classified by its SQLSTATE: away, busy, forbidden, or a refusal of these rows."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from reactor.core.errors import DatabaseFailure, DatabaseForbidden, DatabaseRefused, DatabaseUnavailable
from reactor.postgres.connection import DedicatedConnection
from reactor.postgres.sqlstate import CALL_ERRORS, database_failure, is_unusable

AWAY, BUSY, FORBIDDEN, REFUSED = "away", "busy", "forbidden", "refused"

CLASSES = {
    **dict.fromkeys(["08000", "08006", "08P01", "53000", "53100", "53200", "53300", "58000", "58030", "72000"], AWAY),
    **dict.fromkeys(["57P01", "57P02", "57P03", "57P04", "57P05", "57000", "F0000", "XX000", "XX001", "XX002"], AWAY),
    **dict.fromkeys(["25006", "25P02", "25P03", "25P04", "26000", "28000", "28P01", "3D000", "0A000", "55006"], AWAY),
    **dict.fromkeys(["40001", "40003", "40P01", "55P03", "57014"], BUSY),
    **dict.fromkeys(["42501", "42883", "42P01", "42703", "42704", "3F000"], FORBIDDEN),
    **dict.fromkeys(["23514", "23503", "23505", "23502", "23P01", "23001", "22P02", "22003", "22001"], REFUSED),
    **dict.fromkeys(["P0001", "P0002", "P0003", "P0004", "40002", "21000", "27000", "44000", "54000"], REFUSED),
    **dict.fromkeys(["42601", "42P10", "2F002", "38000", "39000", "HV000", "55000", "RX001", "99999"], REFUSED),
}


def kind_of(failure: DatabaseFailure) -> str:
    if isinstance(failure, DatabaseUnavailable):
        return BUSY if failure.is_busy else AWAY
    return FORBIDDEN if isinstance(failure, DatabaseForbidden) else REFUSED


@pytest.fixture(scope="module")
def conn(server_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute("set search_path = pg_catalog, pg_temp")
        conn.execute("create schema if not exists app")
        conn.execute("create table if not exists app.row (a int constraint a_is_small check (a < 10))")
        conn.execute(
            "create or replace function app.guard(code text) returns void language plpgsql as "
            "$$ begin raise exception using errcode = code, message = 'closed for you', detail = 's3cret'; end $$"
        )
        yield conn
        conn.execute("drop schema app cascade")


def raised_by(conn: psycopg.Connection[Any], statement: str) -> Exception:
    with pytest.raises(CALL_ERRORS) as caught:
        conn.execute(statement.encode())
    return caught.value


@pytest.mark.parametrize(("sqlstate", "kind"), CLASSES.items())
def test_each_class_has_its_kind(conn: psycopg.Connection[Any], sqlstate: str, kind: str) -> None:
    """`do` raises in a block without a name, as a statement of the reactor does."""
    error = raised_by(conn, f"do $$ begin raise exception using errcode = '{sqlstate}', message = 'no'; end $$")
    failure = database_failure(error)
    assert kind_of(failure) == kind
    assert "\n" not in str(failure)
    if isinstance(failure, DatabaseRefused):
        assert failure.sqlstate == sqlstate


@pytest.mark.parametrize(("sqlstate", "kind"), CLASSES.items())
def test_what_the_apps_function_raises_refuses_its_rows(
    conn: psycopg.Connection[Any], sqlstate: str, kind: str
) -> None:
    failure = database_failure(raised_by(conn, f"select app.guard('{sqlstate}')"))
    assert kind_of(failure) == (BUSY if kind == BUSY else REFUSED)
    assert str(failure) == "closed for you (raised by app.guard)"


@pytest.mark.parametrize("language", ["de_DE.utf8", "C"])
def test_the_language_of_the_server_does_not_matter(conn: psycopg.Connection[Any], language: str) -> None:
    try:
        conn.execute(f"set lc_messages = '{language}'".encode())
    except psycopg.Error:
        pytest.skip(f"the server has no {language}")
    failure = database_failure(raised_by(conn, "select app.guard('XX000')"))
    conn.execute("reset lc_messages")
    assert kind_of(failure) == REFUSED


@pytest.mark.parametrize(
    ("statement", "kind", "message"),
    [
        ("insert into app.row values (11)", REFUSED, "a_is_small"),
        ("select 'my s3cret'::int", REFUSED, "invalid input syntax for type integer"),
        ("select 'my s3cret'::timestamptz", REFUSED, "invalid input syntax for type timestamp with time zone"),
        ("select '{\"s3cret\": \\u0000'::jsonb", REFUSED, "invalid input syntax for type json"),
        ("select app.nothing()", FORBIDDEN, "run `reactor migrate`"),
        ("select * from app.nothing", FORBIDDEN, "run `reactor migrate`"),
        ("select * from nowhere.nothing", FORBIDDEN, "run `reactor migrate`"),
        ("select nothing from app.row", FORBIDDEN, "run `reactor migrate`"),
        ("select pg_terminate_backend(pg_backend_pid())", AWAY, "terminating connection"),
    ],
)
def test_the_message_is_one_line_without_values(
    server_url: str, conn: psycopg.Connection[Any], statement: str, kind: str, message: str
) -> None:
    del conn  # it has made the schema
    with psycopg.connect(server_url, autocommit=True) as other:
        failure = database_failure(raised_by(other, statement))
    assert kind_of(failure) == kind
    assert message in str(failure)
    assert "s3cret" not in str(failure)
    assert "\n" not in str(failure)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("the connection is closed"), AWAY),
        (psycopg.InterfaceError("the connection is closed"), AWAY),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), AWAY),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), REFUSED),
        (psycopg.ProgrammingError("cannot adapt type"), REFUSED),
        (psycopg.NotSupportedError("infinity"), REFUSED),
        (UnicodeEncodeError("latin-1", "ж", 0, 1, "ordinal not in range"), REFUSED),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), REFUSED),
        (OverflowError("date value out of range"), REFUSED),
        (RecursionError("maximum recursion depth exceeded"), REFUSED),
    ],
)
def test_errors_of_the_client_side(error: Exception, kind: str) -> None:
    assert isinstance(error, CALL_ERRORS)
    assert kind_of(database_failure(error)) == kind


@pytest.mark.parametrize("sqlstate", ["25006", "57P01", "08006", "26000", "XX000", "0A000"])
def test_an_unusable_connection_is_recognised(conn: psycopg.Connection[Any], sqlstate: str) -> None:
    assert is_unusable(raised_by(conn, f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$"))


@pytest.mark.parametrize("sqlstate", ["23514", "40001", "57014", "42501", "53100"])
def test_a_connection_is_kept_after_other_errors(conn: psycopg.Connection[Any], sqlstate: str) -> None:
    assert not is_unusable(raised_by(conn, f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$"))


def test_a_connection_that_has_become_read_only_is_replaced(migrated_url: str) -> None:
    """The new connection makes the call; only if it can't write either, the call fails."""

    async def ask() -> tuple[int, int]:
        connection = DedicatedConnection(migrated_url)
        try:
            [(first,)] = await connection.call("select pg_backend_pid()")
            await connection.call("set default_transaction_read_only = on")
            await connection.call("insert into reactor.migration (name, checksum) values ('x', 'x')")
            [(second,)] = await connection.call("select pg_backend_pid()")
        finally:
            await connection.close()
        return first, second

    first, second = asyncio.run(ask())
    assert first != second


def test_a_stale_plan_is_made_again(migrated_url: str) -> None:
    """A migration may change what a prepared statement returns."""

    async def ask() -> list[Any]:
        connection = DedicatedConnection(migrated_url)
        try:
            await connection.call("create table public.plan_test (a int)")
            await connection.call("select * from public.plan_test")
            await connection.call("alter table public.plan_test add b int")
            await connection.call("insert into public.plan_test values (1, 2)")
            return await connection.call("select * from public.plan_test")
        finally:
            await connection.close()

    assert asyncio.run(ask()) == [(1, 2)]
    assert errors.lookup("0A000") is errors.FeatureNotSupported
