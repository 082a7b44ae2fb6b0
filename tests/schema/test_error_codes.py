"""The exceptions, the SQL functions and schema/README.md have the error codes of one catalogue.

After a change: REACTOR_TEST_UPDATE_CATALOGUE=1 pytest tests/schema/test_error_codes.py
"""

import os

import psycopg

from reactor.core.error_codes import CATALOGUE, ErrorCode
from reactor.core.errors import Refused, Rejected, Unavailable, error_of
from reactor.postgres.migrate import schema_dir

README = schema_dir() / "README.md"
SQL = schema_dir() / "functions/lib_error_catalogue.sql"
BEGIN, END = "<!-- error codes -->\n", "\n<!-- end of error codes -->"
ANSWERS = {"STORAGE_PENDING_RETRY"}
"""Codes of successful results. There are no exceptions for them."""


def quoted(text: str | None) -> str:
    return "null" if text is None else "'" + text.replace("'", "''") + "'"


def as_sql() -> str:
    """Return the definition of the SQL function that returns the catalogue."""

    def row(error: ErrorCode) -> str:
        return (
            f"        ({quoted(error.code)}, {quoted(error.sqlstate)}, {str(error.retryable).lower()},"
            f" {error.http_status},\n         {quoted(error.message)},\n         {quoted(error.next_step)})"
        )

    values = ",\n".join(map(row, CATALOGUE.values()))
    return f"""-- Every public error code. Written from reactor/core/error_codes.py by tests/schema/test_error_codes.py.
create or replace function reactor.error_catalogue()
    returns table (code text, sqlstate text, retryable boolean, http_status int, message text, next_step text)
    language sql
    immutable
    set search_path = pg_catalog, pg_temp
as $$
    values
{values}
$$;

revoke all on function reactor.error_catalogue() from public;
"""


def as_table() -> str:
    """Return the table of error codes in schema/README.md."""
    rows = [
        f"| `{error.code}` | {error.http_status} | {'yes' if error.retryable else 'no'} |"
        f" {error.message} | {error.next_step} |"
        for error in CATALOGUE.values()
    ]
    return "\n".join(["| code | HTTP | retryable | what happened | what to do next |", "|---|---|---|---|---|", *rows])


def test_the_sql_function_equals_the_catalogue(migrated_url: str) -> None:
    if os.environ.get("REACTOR_TEST_UPDATE_CATALOGUE"):
        SQL.write_text(as_sql(), encoding="utf-8")
    assert SQL.read_text(encoding="utf-8") == as_sql()
    with psycopg.connect(migrated_url) as conn:
        rows = conn.execute(
            "select code, sqlstate, retryable, http_status, message, next_step from reactor.error_catalogue()"
        ).fetchall()
    assert rows == [
        (error.code, error.sqlstate, error.retryable, error.http_status, error.message, error.next_step)
        for error in CATALOGUE.values()
    ]


def test_the_table_in_the_readme_equals_the_catalogue() -> None:
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    table, after = rest.split(END.lstrip("\n"))
    table = table.removesuffix("\n")
    if os.environ.get("REACTOR_TEST_UPDATE_CATALOGUE"):
        README.write_text(before + BEGIN + as_table() + END + after, encoding="utf-8")
        table = as_table()
    assert table == as_table()


def test_every_code_has_one_exception_with_the_same_fields() -> None:
    for code in CATALOGUE.keys() - ANSWERS - {"CONFIG_INVALID"}:
        error = error_of(code, "why", {"what": 1})
        assert isinstance(error, Rejected | Refused | Unavailable)
        assert type(error).__doc__
        assert error.to_dict() == {
            "ok": False,
            "code": code,
            "message": "why",
            "retryable": CATALOGUE[code].retryable,
            "details": {"what": 1},
        }
        assert error.catalogued is CATALOGUE[code]


def test_each_sqlstate_belongs_to_one_code_and_to_class_rx() -> None:
    states = [error.sqlstate for error in CATALOGUE.values() if error.sqlstate]
    assert len(set(states)) == len(states)
    assert all(state.startswith("RX") for state in states)
