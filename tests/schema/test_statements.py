"""PostgreSQL prepares each statement of the reactor without running it. This finds wrong names and types."""

import re
import types
from collections.abc import Iterator
from typing import get_args, get_type_hints
from uuid import UUID

import psycopg
import pytest

from reactor.postgres import runs, statements, upload_answers, upload_queue

NAMES = sorted(name for name in vars(statements) if name.isupper())
COUNT = 27
"""The number of statements. The columns of a new statement must be added below."""


class Wide(int):
    """Stands for the type bigint."""


TYPE_OF_CLASS = {Wide: "int8", float: "float8", int: "int4", str: "text", bool: "bool", UUID: "uuid"}

SWEPT = {"id": UUID, "tenant": int, "due_at": float, "changed_at": float}

READS = {
    # the field `token` has no column: its value is the caller's parameter
    "CLAIM_UPLOADS": {"state": str, **get_type_hints(upload_answers.Upload), "byte_size": Wide},
    "CLAIM_UPLOADS_EXCEPT": {"state": str, **get_type_hints(upload_answers.Upload), "byte_size": Wide},
    "EXTEND_LEASES": {"id": UUID, "extended": bool},
    "CONFIRM_STORED": {"id": UUID},
    "SETTLE_UPLOADS": {"id": UUID, "state": str, **get_type_hints(upload_answers.Settled), "message": str},
    "REFUSE_UPLOAD": {"state": str, "message": str, "refused_at": float},
    "RESCUE_UPLOADS": get_type_hints(upload_queue.Rescue) | {"byte_size": Wide},
    "SWEEP_UPLOADS": SWEPT,
    "EXPIRE_RUNS": get_type_hints(runs.Expiry),
    "SWEEP_RUNS": SWEPT,
}
"""The expected columns of statements whose rows become objects in reactor/postgres/upload_queue.py or runs.py."""

ANSWERS = sorted(
    name
    for name in NAMES
    if name not in READS and name.endswith(("_UPLOAD", "_INTERPRETATION", "_USAGE")) and name != "REPAIR_USAGE"
)
"""The statements of the SQL API. Each returns one jsonb."""


@pytest.fixture
def conn(migrated_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(migrated_url, autocommit=True) as conn:
        yield conn


def described(conn: psycopg.Connection, name: str) -> tuple[list[str], dict[str, str]]:
    """Prepare a statement and return the types of its parameters, and its columns with their types."""
    text: str = getattr(statements, name)
    numbers = iter(range(1, 100))
    result = conn.pgconn.prepare(b"", re.sub("%[sb]", lambda _: f"${next(numbers)}", text).encode())
    assert result.status == psycopg.pq.ExecStatus.COMMAND_OK, result.error_message.decode()
    result = conn.pgconn.describe_prepared(b"")
    types_of: dict[int, str] = dict(conn.execute("select oid, typname from pg_type").fetchall())
    return (
        [types_of[result.param_type(n)] for n in range(result.nparams)],
        {(result.fname(n) or b"").decode(): types_of[result.ftype(n)] for n in range(result.nfields)},
    )


def test_every_statement_is_tested_here() -> None:
    assert len(NAMES) == COUNT
    others = {
        "CLOCK",
        "REPORT_PRESENCE",
        "DEREGISTER_INSTANCE",
        "STATUS",
        "MISSING_PRIVILEGES",
        "REPAIR_USAGE",
        "FULLEST_USERS",
        "LIVE_SUMMARY",
    }
    others |= {"OPERATE"}
    assert set(READS) | others | set(ANSWERS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_server_parses_it_and_its_parameters_have_the_written_types(conn: psycopg.Connection, name: str) -> None:
    parameters, _ = described(conn, name)
    written = re.findall(r"%[sb]::(\w+(?:\[\])?)", getattr(statements, name))
    assert len(written) == len(re.findall("%[sb]", getattr(statements, name)))
    names = {"int": "int4"}
    assert parameters == ["_" + names.get(t[:-2], t[:-2]) if t.endswith("[]") else names.get(t, t) for t in written]


@pytest.mark.parametrize("name", READS)
def test_its_columns_are_the_fields_of_its_class_in_order(conn: psycopg.Connection, name: str) -> None:
    _, columns = described(conn, name)
    expected = {
        field: TYPE_OF_CLASS[get_args(kind)[0] if isinstance(kind, types.UnionType) else kind]
        for field, kind in READS[name].items()
        if field != "token"
    }
    assert list(columns.items()) == list(expected.items())


@pytest.mark.parametrize("name", ANSWERS)
def test_a_call_of_the_api_returns_one_object(conn: psycopg.Connection, name: str) -> None:
    assert described(conn, name)[1] == {name.lower(): "jsonb"}


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("CLOCK", {"now_at": "float8"}),
        ("REPORT_PRESENCE", {"now_at": "float8", "queue_usage": "float8", "instances": "_uuid", "listening": "_uuid"}),
        ("REPAIR_USAGE", {"kind": "text", "count": "int8"}),
        ("DEREGISTER_INSTANCE", {"deregister_instance": "void"}),
        ("STATUS", {"status": "jsonb"}),
        ("FULLEST_USERS", {"fullest_users": "jsonb"}),
        ("LIVE_SUMMARY", {"live_summary": "jsonb"}),
        ("OPERATE", {"operate": "jsonb"}),
        ("MISSING_PRIVILEGES", {"missing_privileges": "text"}),
    ],
)
def test_the_other_statements_return_the_listed_columns(
    conn: psycopg.Connection, name: str, columns: dict[str, str]
) -> None:
    assert list(described(conn, name)[1].items()) == list(columns.items())
