"""An invalid call returns the right error code, names the wrong argument, and changes nothing."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from support.callers import NIL, Api, content_hash, failed
from support.rows import Rows, rows_of
from support.table_dump import dump

Call = tuple[str, str, dict[str, Any], str | None]
"""Function, expected code, arguments, and the argument that the error must name."""

HASH = content_hash("some")
MINUTE = timedelta(minutes=1)
NOBODYS = UUID("00000000-0000-4000-8000-00000000dead")
FIRST_WITH_INFINITE_INTERVALS = 170000

SIZES = ["-1", "-9223372036854775809", "0.5", "1e-9", "1125899906842625", "9223372036854775808", "1e400", "NaN"]
INFINITE = ["Infinity", "-Infinity"]
HASHES = [
    "",
    "a",
    "0" * 63,
    "0" * 65,
    "A" + "0" * 63,
    "g" + "0" * 63,
    " " + "0" * 63,
    "0" * 64 + "\n",
    "é" * 64,
    "\\x" * 32,
]
INTERVALS = ["0", "-1 microsecond", "-10 minutes", "31 days", "30 days 1 microsecond", "1000 years", "2 months"]
BAD_PATHS = {"p_object_path": 1024, "p_temp_file_path": 4096}


def reserve(argument: str, value: Any) -> Call:
    arguments = {"p_user_id": uuid4(), "p_content_hash": HASH, "p_byte_size": 1} | {argument: value}
    return "reserve_upload", "INVALID_ARGUMENT", arguments, argument


def fail(argument: str, value: Any) -> Call:
    return "fail_upload", "INVALID_ARGUMENT", failed(NOBODYS) | {argument: value}, argument


def begin(argument: str, value: Any) -> Call:
    return "begin_interpretation", "INVALID_ARGUMENT", {"p_source_id": NOBODYS} | {argument: value}, argument


def invalid(function: str, argument: str, **arguments: Any) -> Call:
    return function, "INVALID_ARGUMENT", arguments, argument


def unknown(function: str, argument: str, **arguments: Any) -> Call:
    return function, "NOT_FOUND", {argument: NOBODYS} | arguments, argument


BAD: list[Call] = [
    *(reserve("p_byte_size", Decimal(size)) for size in SIZES),
    *(reserve("p_content_hash", value) for value in HASHES),
    *(reserve(argument, None) for argument in ("p_user_id", "p_content_hash", "p_byte_size", "p_source_metadata")),
    reserve("p_mime_type", "x" * 256),
    reserve("p_file_name", "x" * 1025),
    reserve("p_source_type", "x" * 256),
    reserve("p_source_agent_id", "x" * 256),
    reserve("p_source_metadata", [1]),
    reserve("p_source_metadata", [{"a": 1}]),
    reserve("p_source_metadata", {"k": "x" * 65536}),
    invalid("complete_upload", "p_source_id", p_source_id=None, p_storage_url="x"),
    invalid("complete_upload", "p_storage_url", p_source_id=NOBODYS, p_storage_url=None),
    invalid("complete_upload", "p_storage_url", p_source_id=NOBODYS, p_storage_url=""),
    invalid("complete_upload", "p_storage_url", p_source_id=NOBODYS, p_storage_url="x" * 2049),
    unknown("complete_upload", "p_source_id", p_storage_url="x"),
    *(fail(argument, None) for argument in failed(NOBODYS)),
    *(fail(argument, None) for argument in ("p_spool", "p_max_retries", "p_metadata")),
    fail("p_bucket", ""),
    fail("p_bucket", "x" * 256),
    *(fail(argument, "") for argument in BAD_PATHS),
    *(fail(argument, "x" * (size + 1)) for argument, size in BAD_PATHS.items()),
    *(fail(argument, "é" * (size // 2 + 1)) for argument, size in BAD_PATHS.items()),
    *(fail("p_spool", value) for value in ("", "../x", "a/b", "a b", "é", "x" * 64, "default\n")),
    *(fail("p_max_retries", value) for value in (0, -1, 101, 2147483647)),
    fail("p_metadata", []),
    fail("p_metadata", {"k": "x" * 65536}),
    unknown("fail_upload", "p_source_id", **{k: v for k, v in failed(NOBODYS).items() if k != "p_source_id"}),
    *(begin(argument, None) for argument in ("p_source_id", "p_config", "p_timeout", "p_run_id")),
    *(begin("p_timeout", value) for value in INTERVALS),
    *(begin("p_heartbeat_timeout", value) for value in INTERVALS),
    begin("p_config", {"k": "x" * 262144}),
    unknown("begin_interpretation", "p_source_id"),
    *(invalid(word, "p_run_id", p_run_id=None) for word in ("heartbeat_interpretation", "complete_interpretation")),
    invalid("fail_interpretation", "p_run_id", p_run_id=None),
    *(
        invalid("fail_interpretation", "p_code", p_run_id=NOBODYS, p_code=code)
        for code in (None, "", "lower", "1ST", "_X", "WITH SPACE", "X" * 65, "X\n", "É")
    ),
    unknown("heartbeat_interpretation", "p_run_id"),
    unknown("complete_interpretation", "p_run_id"),
    unknown("fail_interpretation", "p_run_id"),
    invalid("get_usage", "p_user_id", p_user_id=None),
    invalid("recalculate_usage", "p_user_id", p_user_id=None),
    invalid("set_plan", "p_user_id", p_user_id=None, p_plan="pro"),
    *(
        invalid("set_plan", "p_plan", p_user_id=NOBODYS, p_plan=plan)
        for plan in (None, "", "gold", "PRO", "pro ", "free'; drop table public.sources; --")
    ),
]


@pytest.fixture
def rows(migrated_url: str) -> Iterator[Rows]:
    """Insert rows that an invalid call could change: sources, uploads, runs and usage of two users."""
    with rows_of(migrated_url) as rows:
        api = Api(rows)
        for _ in range(2):
            user = uuid4()
            api.begin(api.store(user))
            api.fail(api.reserve(user))
        yield rows


def test_there_are_many_bad_calls_and_no_two_are_equal() -> None:
    assert len({(function, repr(arguments | {"p_user_id": None})) for function, _, arguments, _ in BAD}) >= 90


def test_each_bad_call_returns_its_code_names_its_argument_and_changes_nothing(rows: Rows) -> None:
    api, before = Api(rows), dump(rows)
    for function, code, arguments, argument in BAD:
        details = api.refused(code, function, **arguments)
        assert details == {"argument": argument}, (function, arguments)
        message = api.call(function, **arguments)["message"]
        assert message.startswith(f"{argument} "), message
        assert dump(rows) == before, (function, arguments)


def test_the_refusal_of_an_unknown_plan_lists_the_known_ones(rows: Rows) -> None:
    answer = Api(rows).call("set_plan", p_user_id=uuid4(), p_plan="gold")
    assert "enterprise, free, pro" in answer["message"]


def test_infinite_numbers_and_intervals_are_refused_too(rows: Rows) -> None:
    if rows.conn.info.server_version >= FIRST_WITH_INFINITE_INTERVALS:
        for argument in ("p_timeout", "p_heartbeat_timeout"):
            for value in ("infinity", "-infinity"):
                function, code, arguments, _ = begin(argument, value)
                assert Api(rows).refused(code, function, **arguments) == {"argument": argument}
    for size in INFINITE:
        function, code, arguments, _ = reserve("p_byte_size", Decimal(size))
        assert Api(rows).refused(code, function, **arguments) == {"argument": "p_byte_size"}


@pytest.mark.parametrize("claims", ["", "{}", '{"sub": ""}', '{"sub": null}', '{"sub": "x"}', "[]", "no json", "null"])
def test_a_user_without_a_valid_token_is_refused_everything_even_what_has_no_user(rows: Rows, claims: str) -> None:
    """The user id of such a caller is the nil UUID. The caller may not even act on rows with this user id."""
    source = Api(rows).store(NIL)
    run = Api(rows).begin(source)
    before, stranger = dump(rows), Api(rows, "authenticated", claims)
    for user in (NIL, uuid4()):
        arguments = {"p_user_id": user, "p_content_hash": HASH, "p_byte_size": 1}
        assert stranger.refused("NOT_ALLOWED", "reserve_upload", **arguments) == {"argument": "p_user_id"}
        assert stranger.refused("NOT_ALLOWED", "get_usage", p_user_id=user) == {"argument": "p_user_id"}
    stranger.refused("NOT_ALLOWED", "complete_upload", p_source_id=source, p_storage_url="x")
    stranger.refused("NOT_ALLOWED", "fail_upload", **failed(source))
    stranger.refused("NOT_ALLOWED", "begin_interpretation", p_source_id=source)
    for word in ("heartbeat_interpretation", "complete_interpretation", "fail_interpretation"):
        stranger.refused("NOT_ALLOWED", word, p_run_id=run)
    assert dump(rows) == before


def test_a_user_has_no_right_to_a_source_without_a_user(rows: Rows) -> None:
    """In an older app's table, user_id may be null. Such a source belongs to no user."""
    rows.run("alter table public.sources alter column user_id drop not null")
    source = rows.one(
        "insert into public.sources (content_hash, byte_size, storage_status) values ('x', 1, 'pending') returning id"
    ).id
    before, user = dump(rows), Api.of(rows, uuid4())
    user.refused("NOT_FOUND", "complete_upload", p_source_id=source, p_storage_url="x")
    user.refused("NOT_FOUND", "fail_upload", **failed(source))
    user.refused("NOT_FOUND", "begin_interpretation", p_source_id=source)
    assert dump(rows) == before


@pytest.mark.parametrize("function", ["set_plan", "recalculate_usage"])
def test_functions_for_services_refuse_every_caller_with_a_token(rows: Rows, function: str) -> None:
    """Users may not execute these functions. Even if the privilege is granted, the function refuses the call."""
    user = uuid4()
    arguments = {"p_user_id": user} | ({"p_plan": "pro"} if function == "set_plan" else {})
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        Api.of(rows, user).call(function, **arguments)
    rows.run(sql.SQL("grant execute on function public.{} to authenticated").format(sql.Identifier(function)))
    before = dump(rows)
    Api.of(rows, user).refused("NOT_ALLOWED", function, **arguments)
    assert dump(rows) == before
